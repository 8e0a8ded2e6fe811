"""Which rows of a report are worth a choice: the Pareto front of speed-up and quality."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .records import QualityRow

HIGHER_IS_BETTER = frozenset({"psnr", "psnr_moving", "ssim"})


def goodness(metric: str, value: float) -> float:
    """The value of a metric, signed so that more is better."""
    return value if metric in HIGHER_IS_BETTER else -value


def pareto_front(rows: Iterable[QualityRow], metric: str) -> tuple[QualityRow, ...]:
    """The rows that no other is both faster and better than, slowest first; without those that lack the metric."""

    def quality(row: QualityRow) -> float:
        return goodness(metric, row.metrics.get(metric, (math.nan, math.nan))[0])

    measured = [row for row in rows if math.isfinite(quality(row)) and math.isfinite(row.speedup)]
    front: list[QualityRow] = []
    for row in sorted(measured, key=lambda row: (row.speedup, quality(row)), reverse=True):
        if not front or quality(row) > quality(front[-1]):
            front.append(row)
    return tuple(reversed(front))
