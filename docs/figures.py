"""The pictures of the README and the pages, drawn from committed results of the embedded model.

    python docs/figures.py

Each carries the hash of the file that it was drawn from; tests/test_docs.py compares it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from dit_accel.quality import QualityReport
from dit_accel.quality.charts import DASHES, LIGHT, MARKERS, draw_front, draw_steps

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "offline_profiles" / "digits-wan" / "held-out.report.json"
STEP_QUALITY = ROOT / "benchmarks" / "results" / "step_quality.json"
IMAGES = ROOT / "docs" / "images"
SOURCES = {"front.svg": REPORT, "steps.svg": REPORT, "step-quality.svg": STEP_QUALITY}


def digest(name: str) -> str:
    """The hash of what a picture is drawn from, as it carries it."""
    return hashlib.sha256(SOURCES[name].read_bytes()).hexdigest()


def main() -> None:
    """Draw all."""
    report = QualityReport.load(REPORT)
    # On so few tokens sparse attention saves no time; its rows would push all others into a corner.
    caches = replace(report, rows=tuple(row for row in report.rows if row.density is None))
    presets = replace(caches, rows=tuple(row for row in caches.rows if not row.name.startswith("uniform")))
    IMAGES.mkdir(exist_ok=True)
    save(draw_front(caches, "psnr"), "front.svg")
    save(draw_steps(presets), "steps.svg")
    save(draw_step_quality(), "step-quality.svg")


def draw_step_quality() -> Figure:
    """PSNR against computed steps, a line for each method."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    rows = json.loads(STEP_QUALITY.read_text(encoding="utf-8"))["rows"]
    by_subject = groupby(sorted(rows, key=itemgetter("subject")), key=itemgetter("subject"))
    curves = {
        subject: sorted((row["budget"]["computed_steps"], row["quality"]["psnr_db"]) for row in found)
        for subject, found in by_subject
    }
    for number, (subject, points) in enumerate(sorted(curves.items(), key=lambda item: -item[1][-1][1])):
        style = {"marker": MARKERS[number % len(MARKERS)], "linestyle": DASHES[number // len(LIGHT.series)]}
        colour = LIGHT.series_colour(number)
        axes.plot(*zip(*points, strict=True), **style, color=colour, label=subject, linewidth=1.4, markersize=4)
    axes.set(xlabel="computed steps of 50", ylabel="PSNR against the full run (dB)")
    axes.grid(color=LIGHT.grid, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure


def save(figure: Figure, name: str) -> None:
    """Write one picture, with the hash of its source inside."""
    with rc_context({"svg.hashsalt": "dit_accel"}):  # the same report, the same bytes
        metadata = {"Date": None, "Description": digest(name)}
        figure.savefig(IMAGES / name, format="svg", facecolor="white", metadata=metadata)


if __name__ == "__main__":
    main()
