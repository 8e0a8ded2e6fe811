"""A report as one HTML page. The template says how it looks; here is what it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from ..errors import ConfigError, DitAccelError, MissingPackageError
from .front import HIGHER_IS_BETTER, goodness
from .records import UNITS, QualityReport, QualityRow, QualitySample, metric_text, number_text
from .videos import BASELINE, DIFFERENCE_GAIN, read_video, video_file

_TEMPLATES = "templates"


def require_packages() -> None:
    """Raise `MissingPackageError` if a page cannot be made here: to be known before minutes of generation."""
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingPackageError(f'The report page needs {package}. pip install "dit-accel[report]"')


def render(report: QualityReport) -> str:
    """The page's text.

    Raises:
        MissingPackageError: jinja2 or matplotlib is not installed.
        ConfigError: a video of the report is missing in its folder, or the report holds what cannot be shown.
    """
    require_packages()
    try:
        return _rendered(report)
    except DitAccelError:
        raise
    except Exception as problem:  # of jinja2 and matplotlib, at values that a file may hold and no run has
        raise ConfigError(
            f"The report holds a value that cannot be shown ({type(problem).__name__}: {problem}). Write its file "
            "with QualityReport.to_json."
        ) from problem


def _rendered(report: QualityReport) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from .charts import page_charts

    environment = Environment(
        loader=PackageLoader(__package__, _TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(fixed=number_text, size=_size, mean=_mean)
    metrics = list(dict.fromkeys(name for row in report.rows for name in row.metrics))
    script = f"\n{_text('report.js')}\n"  # as it stands between the tags: the policy allows what has its hash
    where, baseline = report.provenance, report.provenance.get("baseline")
    return environment.get_template("report.html.j2").render(
        style=_text("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        title=str(where.get("model") or where.get("pipeline") or "Quality report"),
        facts=_facts(report),
        baseline_memory=baseline.get("peak_memory_bytes") if isinstance(baseline, dict) else None,
        rows=report.rows,
        metrics=metrics,
        units=UNITS,
        higher_is_better=HIGHER_IS_BETTER,
        charts=page_charts(report),
        provenance=where,
        has_density=any(row.density is not None for row in report.rows),
        missing_metrics=where.get("unavailable_metrics") or {},
        viewer=_viewer(report, metrics) if report.videos is not None and report.samples else None,
        gain=DIFFERENCE_GAIN,
    )


def _facts(report: QualityReport) -> str:
    """The line under the title."""
    videos = f"{report.rows[0].num_videos} videos" if report.rows else ""
    found = (videos, report.provenance.get("device"), str(report.provenance.get("date") or "")[:10])
    return " · ".join(str(fact) for fact in found if fact)


def _viewer(report: QualityReport, metrics: list[str]) -> dict[str, Any]:
    """What the script of the page knows: the videos of every row, worst first, and their data by file name."""
    prompts, labels = list(report.provenance.get("prompts", [])), [row.name for row in report.rows]
    shown: dict[str, list[dict[str, Any]]] = {}
    names: dict[str, None] = {}
    for row in report.rows:
        samples = [sample for sample in report.samples if sample.name == row.name]
        for sample in sorted(samples, key=lambda sample: _quality(sample, metrics[0]) if metrics else 0.0):
            found = prompts.index(sample.prompt) if sample.prompt in prompts else len(prompts)
            place, label = (found, sample.seed), 1 + labels.index(row.name)
            files_shown = [
                video_file(*place, 0),
                video_file(*place, label),
                video_file(*place, label, is_difference=True),
            ]
            entry = {
                "prompt": sample.prompt,
                "seed": sample.seed,
                "steps": f"{sample.computed_steps} / {sample.num_steps}",
                "speedup": number_text(sample.speedup, 2),
                "metrics": {name: metric_text(name, sample.metrics[name]) for name in metrics},
                "frames": {
                    name: [metric_text(name, value) for value in values] for name, values in sample.frames.items()
                },
                "videos": files_shown,
            }
            names |= dict.fromkeys(files_shown)
            shown.setdefault(row.name, []).append(entry)
    return {
        "data": json.dumps({"rows": shown, "fps": report.provenance.get("fps", 16)}).replace("<", "\\u003c"),
        "videos": {name: _data(report, name) for name in names},
        "titles": [BASELINE, "accelerated", f"difference ×{DIFFERENCE_GAIN}"],
    }


def _quality(sample: QualitySample, metric: str) -> float:
    value = goodness(metric, sample.metrics.get(metric, math.nan))
    return -math.inf if math.isnan(value) else value


def _data(report: QualityReport, name: str) -> str:
    assert report.videos is not None
    try:
        return base64.b64encode(read_video(report.videos / name)).decode("ascii")
    except ConfigError as problem:
        raise ConfigError(
            f"The page needs the report's videos. {problem} Give the folder that evaluate(videos=...) wrote, or none."
        ) from None


def _text(name: str) -> str:
    return files(__package__).joinpath(_TEMPLATES).joinpath(name).read_text(encoding="utf-8")


def _mean(row: QualityRow, name: str) -> str:
    return metric_text(name, *row.metrics.get(name, (math.nan, math.nan)))


def _size(nbytes: int | None) -> str:
    """Bytes for people."""
    if nbytes is None:
        return "–"
    value, units = float(nbytes), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and unit != "TiB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
