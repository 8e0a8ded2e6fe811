"""The picture of an `ErrorGraph`: its edges, the paths chosen on it, and what each budget costs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GraphError, MissingPackageError
from ..schedule import CacheSchedule
from .planner import predicted_error

if TYPE_CHECKING:
    from .error_graph import ErrorGraph


def plot_graph(
    graph: ErrorGraph, path: str | Path, schedules: Mapping[str, CacheSchedule], measured: Mapping[int, float]
) -> None:
    """See `ErrorGraph.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError(
            'plot needs matplotlib, which is not installed. pip install "dit-accel[plot]"'
        ) from None
    if not any(error > 0 for error in graph.edges.values()):
        raise GraphError("There is no edge with a positive error to plot.")
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    edges, budgets = figure.subplots(1, 2, width_ratios=(2, 1))
    _draw_edges(figure, edges, graph, schedules)
    _draw_budgets(budgets, graph, measured)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as problem:  # an unwritable path, or an ending that matplotlib cannot write
        raise GraphError(f"The plot cannot be written to {str(path)!r}: {problem}. Give another path.") from None


def _draw_edges(figure: Any, axes: Any, graph: ErrorGraph, schedules: Mapping[str, CacheSchedule]) -> None:
    from matplotlib.colors import LogNorm

    positive = {edge: error for edge, error in graph.edges.items() if error > 0}
    norm = LogNorm(min(positive.values()), max(positive.values()))
    for is_estimated, marker in ((False, "s"), (True, "o")):
        chosen = {edge: error for edge, error in positive.items() if (edge in graph.estimated) == is_estimated}
        if chosen:
            starts, lengths = zip(*((i, j - i - 1) for i, j in chosen), strict=True)
            size = 14 if is_estimated else 45
            marks = axes.scatter(starts, lengths, c=list(chosen.values()), norm=norm, marker=marker, s=size)
    for name, schedule in schedules.items():
        pairs = list(pairwise(schedule.compute_steps))
        axes.plot([i for i, _ in pairs], [j - i - 1 for i, j in pairs], "o-", fillstyle="none", lw=1, ms=8, label=name)
    if schedules:
        figure.legend(loc="outside upper center", ncols=len(schedules))
    estimated = " (small circles: estimated)" if graph.estimated else ""
    axes.set(xlabel="computed step i", ylabel="steps that reuse it" + estimated)
    figure.colorbar(marks, label="error of the final latent (mean L1)")


def _draw_budgets(axes: Any, graph: ErrorGraph, measured: Mapping[int, float]) -> None:
    """What the edges of each budget's best path add up to; and what whole runs of it were measured to cost."""
    sums = {budget: predicted_error(graph, plan.compute_steps) for budget, plan in graph.plan_all().items()}
    shown = {budget: error for budget, error in sums.items() if error > 0}
    axes.semilogy(list(shown), list(shown.values()), "-", lw=1, label="predicted: sum over the edges")
    if measured:
        axes.semilogy(list(measured), list(measured.values()), "o", ms=4, label="measured: whole run")
        axes.legend()
    axes.set(xlabel="budget (full steps)", ylabel="error of the final latent (mean L1)")
