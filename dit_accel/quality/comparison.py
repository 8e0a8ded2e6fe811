"""`compare`: two quality reports beside each other, over the videos that both have."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .records import QualityReport, QualityRow, QualitySample

# What should be equal for the figures to be comparable.
_CONDITIONS = ("pipeline", "model", "inputs", "device", "versions")


@dataclass(frozen=True)
class Figure:
    """One figure of a row, in both reports.

    Args:
        name: ``"speedup"``, or the name of a metric.
        first: mean over the pairs in the first report; if there is no pair, what its row says. NaN: not measured.
        second: the same of the second.
        difference: mean over the pairs of second - first; NaN if there is no pair.
        standard_error: of that mean, from the paired differences; NaN for fewer than two pairs.
    """

    name: str
    first: float
    second: float
    difference: float
    standard_error: float


@dataclass(frozen=True)
class ComparedRow:
    """A row that both reports have.

    Args:
        name: its label.
        num_pairs: prompts and seeds that both reports have of it.
        figures: speed-up first, then every metric that either report has.
    """

    name: str
    num_pairs: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Comparison:
    """Two quality reports beside each other.

    Args:
        rows: what both have, in the order of the first.
        only_first: labels of rows that only the first has.
        only_second: the same of the second.
        differing: part of the provenance (pipeline, model, inputs, device, versions) -> what each report says, where
            they differ. Then more differs between the figures than what is compared.
    """

    rows: tuple[ComparedRow, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    differing: dict[str, tuple[Any, Any]]


def compare(first: QualityReport, second: QualityReport) -> Comparison:
    """Put the rows of the same label beside each other.

    Videos of the same prompt and seed are compared pair by pair, so what differs between prompts cancels: the standard
    error is that of the mean of the paired differences.

    Args:
        first: what is compared with.
        second: what is compared; a difference above 0 says that its figure is higher.

    Raises:
        ConfigError: no label is in both reports.
    """
    names = [[row.name for row in report.rows] for report in (first, second)]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        raise ConfigError(
            f"The reports have no row in common: one has {', '.join(names[0]) or 'none'}, the other "
            f"{', '.join(names[1]) or 'none'}. Compare reports of the same presets, or give them the same labels."
        )
    return Comparison(
        rows=tuple(_compared(name, first, second) for name in common),
        only_first=tuple(name for name in names[0] if name not in common),
        only_second=tuple(name for name in names[1] if name not in common),
        differing={
            key: (first.provenance.get(key), second.provenance.get(key))
            for key in _CONDITIONS
            if first.provenance.get(key) != second.provenance.get(key)
        },
    )


def _compared(name: str, first: QualityReport, second: QualityReport) -> ComparedRow:
    by_video = [
        {(sample.prompt, sample.seed): sample for sample in report.samples if sample.name == name}
        for report in (first, second)
    ]
    pairs = [(by_video[0][video], by_video[1][video]) for video in by_video[0] if video in by_video[1]]
    rows = [next(row for row in report.rows if row.name == name) for report in (first, second)]
    figures = []
    for figure in ("speedup", *dict.fromkeys((*rows[0].metrics, *rows[1].metrics))):
        if pairs:
            figures.append(_paired(figure, [(_of_sample(a, figure), _of_sample(b, figure)) for a, b in pairs]))
        else:
            figures.append(Figure(figure, _of_row(rows[0], figure), _of_row(rows[1], figure), math.nan, math.nan))
    return ComparedRow(name, len(pairs), tuple(figures))


def _paired(name: str, values: list[tuple[float, float]]) -> Figure:
    """Means over the pairs in which both are defined."""
    defined = [(a, b) for a, b in values if not math.isnan(a) and not math.isnan(b)]
    if not defined:
        return Figure(name, math.nan, math.nan, math.nan, math.nan)
    differences = [b - a for a, b in defined]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return Figure(
        name,
        statistics.fmean(a for a, _ in defined),
        statistics.fmean(b for _, b in defined),
        statistics.fmean(differences),
        error,
    )


def _of_sample(sample: QualitySample, figure: str) -> float:
    return sample.speedup if figure == "speedup" else sample.metrics.get(figure, math.nan)


def _of_row(row: QualityRow, figure: str) -> float:
    return row.speedup if figure == "speedup" else row.metrics.get(figure, (math.nan, math.nan))[0]
