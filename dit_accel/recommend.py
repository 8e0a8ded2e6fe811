"""`recommend`: the preset that was measured to give what a user asks for. Never a guess."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .api import available_presets
from .configs import require_number
from .documents import quoted
from .errors import ConfigError, NoRecommendationError
from .quality.front import goodness, pareto_front
from .quality.records import QualityReport, QualityRow, json_value
from .registry import find_spec, find_variant, model_id

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

QUALITY_METRICS = ("lpips", "st_lpips", "psnr", "ssim")  # the first that all rows have is the quality of the front
_HOW_TO_MEASURE = (
    "To measure: 'dit-accel report', or dit_accel.evaluate(pipe, PRESETS, PROMPTS, out='REPORT.json'); then "
    "recommend(pipe, ..., reports=['REPORT.json'])."
)


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` picked, and among what.

    Args:
        preset: the name for `enable_acceleration`.
        row: what was measured of it.
        why: one paragraph for people: the choice, the figures and where they were measured, the neighbours.
        front: the Pareto front of speed-up and quality, slowest first: nothing measured is both faster and better.
    """

    preset: str
    row: QualityRow
    why: str
    front: tuple[QualityRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; null for what is not a finite number."""
        document: dict[str, Any] = json_value(asdict(self))
        return document


@dataclass(frozen=True)
class _Limit:
    """The least, or the most, that a row must reach in one figure: ``"speedup"`` or the name of a metric."""

    name: str
    figure: str
    value: float

    @property
    def is_most(self) -> bool:
        return self.name.startswith("max_")

    def is_met(self, row: QualityRow) -> bool:
        given = _figure(row, self.figure)
        return given <= self.value if self.is_most else given >= self.value  # NaN meets nothing

    def shortfall(self, row: QualityRow) -> float:
        """How far the row is from it: 0 if met, else relative to the larger of the two values; 1 if not measured."""
        given = _figure(row, self.figure)
        if self.is_met(row):
            return 0.0
        return 1.0 if math.isnan(given) else abs(given - self.value) / max(abs(given), abs(self.value))

    def __str__(self) -> str:
        figure = "speed-up" if self.figure == "speedup" else self.figure
        return f"{figure} {'≤' if self.is_most else '≥'} {self.value:g}"


def recommend(
    pipe: DiffusionPipeline,
    *,
    speedup: float | None = None,
    max_lpips: float | None = None,
    max_st_lpips: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    reports: Sequence[str | Path] = (),
) -> Recommendation:
    """The preset of ``pipe`` that, as measured, meets the limits best.

    The measurements are the quality reports that ship for the model, oldest first, then ``reports``. Figures are only
    compared if they were measured on one device with the same inputs: those of the last report. A preset that was
    measured twice counts as it was last. Rows whose label is no preset, or presets joined by ``+``, are left out.

    Without a quality limit this is the best preset that is at least ``speedup`` times faster; without ``speedup``, the
    fastest that keeps all quality limits; with both, the best that keeps all. Means over videos are compared with the
    limits; their standard errors are told. Better means: by the first of LPIPS, ST-LPIPS, PSNR, SSIM that was measured
    of all presets.

    Args:
        pipe: a supported diffusers pipeline; it is only looked at.
        speedup: least wall time of the denoising loop, full / accelerated, at least 1.
        max_lpips, max_st_lpips: most mean distance to the full run's videos, at least 0.
        min_psnr: least mean PSNR in dB, at least 0.
        min_ssim: least mean SSIM, in [-1, 1].
        reports: files of your own measurements of this model's presets, see `QualityReport.to_json`.

    Raises:
        ConfigError: no limit, one out of range, or a report that cannot be read or is of another pipeline.
        NoRecommendationError: nothing was measured of this model or in this metric, or no preset meets the limits.
        UnsupportedPipelineError: no specification covers the pipeline.
    """
    limits = _limits(
        speedup=speedup, max_lpips=max_lpips, max_st_lpips=max_st_lpips, min_psnr=min_psnr, min_ssim=min_ssim
    )
    measured = _measured(pipe, reports)
    rows = [row for row, _ in measured.values()]
    _require_measured(limits, rows)
    metric = next((name for name in QUALITY_METRICS if not any(math.isnan(_figure(row, name)) for row in rows)), None)
    if metric is None:
        raise NoRecommendationError(
            f"{', '.join(measured)} were not all measured in one of {', '.join(QUALITY_METRICS)}, so none is best. "
            + _HOW_TO_MEASURE
        )

    def quality(row: QualityRow) -> float:
        return goodness(metric, _figure(row, metric))

    fitting = [row for row in rows if all(limit.is_met(row) for limit in limits)]
    if not fitting:
        nearest = min(rows, key=lambda row: max(limit.shortfall(row) for limit in limits))
        raise NoRecommendationError(
            f"No measured preset of this {type(pipe).__name__} has {_joined(limits)}. The nearest is "
            f"{_described(nearest, [limit.figure for limit in limits])}. Relax the limits."
        )
    wants_fastest = speedup is None
    row = max(fitting, key=lambda row: (row.speedup, quality(row)) if wants_fastest else (quality(row), row.speedup))
    front = pareto_front(rows, metric)
    choice = "the fastest" if wants_fastest else f"the best by {metric}"
    among = f"{len(fitting)} presets, of {len(rows)} measured, with {_joined(limits)}"
    why = [f"{row.name} is {choice} of {among}.", _figures(row, measured[row.name][1])]
    why += _neighbours(row, front, quality, metric)
    return Recommendation(row.name, row, " ".join(why), front)


def _limits(**given: float | None) -> list[_Limit]:
    """The limits that were given, each checked."""
    ranges = {"speedup": (1.0, math.inf), "min_ssim": (-1.0, 1.0)}
    limits = []
    for name, value in given.items():
        if value is not None:
            require_number("recommend", name, value, *ranges.get(name, (0.0, math.inf)))
            limits.append(_Limit(name, name.removeprefix("max_").removeprefix("min_"), float(value)))
    if not limits:
        raise ConfigError(
            f"recommend was given no limit. Give at least one of {', '.join(given)}, e.g. recommend(pipe, speedup=2)."
        )
    return limits


def _measured(pipe: DiffusionPipeline, paths: Sequence[str | Path]) -> dict[str, tuple[QualityRow, dict[str, Any]]]:
    """Preset -> its row and the provenance of its report; all measured under the conditions of the last report."""
    if isinstance(paths, (str, Path)):
        raise ConfigError(f"reports must be a list of paths, got {quoted(paths)}. Put a single one into a list.")
    reports = _shipped_reports(pipe) + [_own_report(pipe, path) for path in paths]
    if not reports:
        raise NoRecommendationError(f"No measured report ships for this {type(pipe).__name__}. {_HOW_TO_MEASURE}")
    conditions = _conditions(reports[-1])
    presets = available_presets(pipe)
    measured = {
        row.name: (row, report.provenance)
        for report in reports
        if _conditions(report) == conditions
        for row in report.rows
        if all(name in presets for name in row.name.split("+")) and math.isfinite(row.speedup)
    }
    if not measured:
        found = ", ".join(row.name for row in reports[-1].rows) or "none"
        raise NoRecommendationError(
            f"No row of the reports is a preset of this {type(pipe).__name__}: rows are {found}; presets are "
            f"{', '.join(presets)}. {_HOW_TO_MEASURE}"
        )
    return measured


def _shipped_reports(pipe: DiffusionPipeline) -> list[QualityReport]:
    """Those in the folder of the pipeline's variant that were measured with its class, oldest first."""
    variant = find_variant(pipe, find_spec(pipe))
    folder = files("dit_accel.offline_profiles").joinpath(variant.name) if variant else None
    reports = []
    for file in folder.iterdir() if folder and folder.is_dir() else ():
        if file.name.endswith(".report.json"):
            with as_file(file) as path:
                reports.append(QualityReport.load(path))
    ours = [report for report in reports if report.provenance.get("pipeline") == type(pipe).__name__]
    return sorted(ours, key=lambda report: str(report.provenance.get("date")))


def _own_report(pipe: DiffusionPipeline, path: str | Path) -> QualityReport:
    """The report in a file, or a `ConfigError` if it is of another pipeline or of another published model."""
    report = QualityReport.load(path)
    pipeline, model = (report.provenance.get(key) for key in ("pipeline", "model"))
    published = [variant.name for variant in find_spec(pipe).variants]
    is_other = pipeline not in [cls.__name__ for cls in type(pipe).__mro__]
    if is_other or (model in published and model != model_id(pipe)):
        raise ConfigError(
            f"{path} is a report of {model or 'a model'} in a {pipeline}, and this is {model_id(pipe)} in a "
            f"{type(pipe).__name__}. Give reports of this model."
        )
    return report


def _conditions(report: QualityReport) -> tuple[Any, Any]:
    """What two reports must have in common for their figures to be comparable."""
    return report.provenance.get("device"), report.provenance.get("inputs")


def _require_measured(limits: Sequence[_Limit], rows: Sequence[QualityRow]) -> None:
    known = [name for name in QUALITY_METRICS if any(not math.isnan(_figure(row, name)) for row in rows)]
    for limit in limits:
        if limit.figure not in ("speedup", *known):
            raise NoRecommendationError(
                f"{limit.figure} was not measured of the presets of this model; measured were "
                f"{', '.join(known) or 'none'}. Set a limit for one of these. {_HOW_TO_MEASURE}"
            )


def _neighbours(
    row: QualityRow, front: Sequence[QualityRow], quality: Callable[[QualityRow], float], metric: str
) -> list[str]:
    """A sentence each on the next faster and the next better row of the front, where there is one."""
    faster = next((other for other in front if other.speedup > row.speedup), None)
    better = next((other for other in reversed(front) if quality(other) > quality(row)), None)
    named = {"Next faster": faster, "Next better": better}
    return [f"{what}: {_described(other, [metric])}." for what, other in named.items() if other is not None]


def _figure(row: QualityRow, figure: str) -> float:
    """The speed-up, or the mean of a metric; NaN if it was not measured."""
    return row.speedup if figure == "speedup" else row.metrics.get(figure, (math.nan, math.nan))[0]


def _figures(row: QualityRow, provenance: Mapping[str, Any]) -> str:
    """All that was measured of a row, where and when."""
    qualities = ", ".join(_metric(row, name) for name in QUALITY_METRICS if not math.isnan(_figure(row, name)))
    return (
        f"Measured: {row.speedup:.2f}× on {provenance.get('device', 'an unknown device')}, "
        f"{str(provenance.get('date', 'no date'))[:10]}, over {row.num_videos} videos: {qualities}; "
        f"{row.computed_steps} of {row.num_steps} steps computed."
    )


def _described(row: QualityRow, figures: Sequence[str]) -> str:
    values = [_metric(row, name) for name in figures if name != "speedup"]
    return ", ".join([f"{row.name}: {row.speedup:.2f}×", *values])


def _metric(row: QualityRow, name: str) -> str:
    mean, error = row.metrics.get(name, (math.nan, math.nan))
    if math.isnan(mean):
        return f"{name} not measured"
    spread = "" if math.isnan(error) else f" ± {error:.2g}"  # one video has none
    return f"{name} {mean:.4g}{spread}{' dB' * (name == 'psnr')}"


def _joined(limits: Sequence[_Limit]) -> str:
    return " and ".join(map(str, limits))
