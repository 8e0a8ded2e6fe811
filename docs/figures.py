"""The pictures of the README, drawn from the committed report of the embedded model.

    python docs/figures.py

Each carries the hash of the report that it was drawn from; tests/test_docs.py compares it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from dit_accel.quality import QualityReport
from dit_accel.quality.charts import draw_front, draw_steps

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "offline_profiles" / "digits-wan" / "held-out.report.json"
IMAGES = ROOT / "docs" / "images"


def digest() -> str:
    """The report's hash, as the pictures carry it."""
    return hashlib.sha256(REPORT.read_bytes()).hexdigest()


def main() -> None:
    """Draw both."""
    report = QualityReport.load(REPORT)
    # On so few tokens sparse attention saves no time; its rows would push all others into a corner.
    caches = replace(report, rows=tuple(row for row in report.rows if row.density is None))
    presets = replace(caches, rows=tuple(row for row in caches.rows if not row.name.startswith("uniform")))
    IMAGES.mkdir(exist_ok=True)
    save(draw_front(caches, "psnr"), "front.svg")
    save(draw_steps(presets), "steps.svg")


def save(figure: Figure, name: str) -> None:
    """Write one picture, with the report's hash inside."""
    with rc_context({"svg.hashsalt": "dit_accel"}):  # the same report, the same bytes
        metadata = {"Date": None, "Description": digest()}
        figure.savefig(IMAGES / name, format="svg", facecolor="white", metadata=metadata)


if __name__ == "__main__":
    main()
