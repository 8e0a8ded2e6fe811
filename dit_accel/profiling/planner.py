"""The planner: which steps to compute under a budget, exactly, by dynamic programming over the error graph.

State (j, b): the best path from step 0 to step j with b full steps. For lexicographic minimax its value is the
descending list of edge errors on the path. Appending one equal number to two lists of equal length keeps their order,
so the best prefix stays best and the recursion is exact, ties included.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, get_args

from ..documents import is_number, quoted
from ..errors import GraphError
from ..schedule import CacheSchedule
from .error_graph import ErrorGraph

Objective = Literal["lexicographic-minimax", "sum-power"]
OF_PATH = ("edge_forecasts", "estimated_edges")  # keys that `path_provenance` may give
Value = tuple[float, ...]
Extend = Callable[[Value, float], Value]


def plan(
    graph: ErrorGraph,
    budget: int | None = None,
    *,
    milliseconds: float | None = None,
    speedup: float | None = None,
    objective: str = "lexicographic-minimax",
    power: float = 4.0,
) -> CacheSchedule:
    """The schedule with the smallest error under one limit: ``budget``, ``milliseconds`` or ``speedup``.

    Args:
        graph: measured errors; the path runs from step 0 to the last step.
        budget: number of full steps, exactly. More: slower, and closer to the full run.
        milliseconds: time of the denoising loop, at most, by the step times in the graph. The schedule may then have
            sparse and partial steps too, if they were profiled.
        speedup: the same, as the time of the full run over that of the schedule; above 0.
        objective: ``"lexicographic-minimax"`` (the paper's): the largest edge error is smallest, then the second
            largest, and so on. ``"sum-power"``: the sum of ``error ** power`` is smallest, in floating point.
        power: exponent of ``"sum-power"``, above 0. Larger: nearer to minimax.

    Returns:
        A schedule with the graph's provenance. Among exact ties the earliest predecessor wins: plans are reproducible.

    Raises:
        GraphError: not exactly one limit is given, it is not feasible on this graph, the graph has no step times, or
            the objective or power is not allowed.

    Paper: LeMiCa Eq. 5; B is ``budget``.
    """
    limits = {"budget": budget, "milliseconds": milliseconds, "speedup": speedup}
    given = [name for name, value in limits.items() if value is not None]
    if len(given) != 1:
        raise GraphError(f"plan needs one of budget, milliseconds and speedup, got {', '.join(given) or 'none'}.")
    if budget is None:
        from .joint import plan_time

        return plan_time(graph, milliseconds, speedup, objective, power)
    schedules = plan_all(graph, objective=objective, power=power)
    if type(budget) is not int or budget not in schedules:
        hint = " A smaller one needs longer edges: profile with a larger max_segment."
        raise GraphError(
            f"No path of {quoted(budget)} full steps exists on this graph of {graph.num_steps} steps. "
            f"Feasible budgets: {_as_ranges(sorted(schedules))}."
            f"{hint if type(budget) is int and 2 <= budget < graph.num_steps else ''}"
        )
    return schedules[budget]


def plan_all(
    graph: ErrorGraph, *, objective: str = "lexicographic-minimax", power: float = 4.0
) -> dict[int, CacheSchedule]:
    """The optimal schedule of every feasible budget, in one solve; arguments as for `plan`."""
    extend = error_extension(objective, power, max(graph.edges.values(), default=0.0))
    by_stop: list[list[tuple[int, float]]] = [[] for _ in range(graph.num_steps)]
    for start, stop in sorted({*graph.edges, *((i, i + 1) for i in range(graph.num_steps - 1))}):
        by_stop[stop].append((start, graph.error(start, stop) or 0.0))
    layer: dict[int, tuple[Value, tuple[int, ...]]] = {0: ((), (0,))}
    schedules: dict[int, CacheSchedule] = {}
    for budget in range(2, graph.num_steps + 1):
        following = {}
        for stop, edges in enumerate(by_stop):
            found = [(extend(layer[i][0], error), layer[i][1]) for i, error in edges if i in layer]
            if found:
                value, path = min(found, key=lambda candidate: candidate[0])
                following[stop] = (value, (*path, stop))
        layer = following
        if graph.num_steps - 1 in layer:
            schedules[budget] = _schedule(graph, layer[graph.num_steps - 1][1], objective, power)
    return schedules


def error_extension(objective: str, power: float, worst: float) -> Extend:
    """How a path's value grows by one edge; ``worst`` is the largest error there is."""
    if not isinstance(objective, str) or objective not in get_args(Objective):
        raise GraphError(
            f"objective={quoted(objective)} is not allowed. Use one of: {', '.join(get_args(Objective))}."
        )
    if objective == "lexicographic-minimax":
        return _insert_descending
    if not is_number(power) or power <= 0:
        raise GraphError(f"power must be a finite number above 0, got {quoted(power)}.")
    exponent = math.frexp(worst)[1]  # scaling by a power of two is exact, and keeps the powers from overflowing
    return lambda value, error: (math.fsum((*value, math.ldexp(error, -exponent) ** power)),)


def _insert_descending(value: Value, error: float) -> Value:
    position = bisect.bisect_left(value, -error, key=lambda x: -x)
    return (*value[:position], error, *value[position:])


def _as_ranges(budgets: list[int]) -> str:
    """``[2, 5, 6, 7]`` -> ``"2, 5 to 7"``: with few long edges, not all budgets between feasible ones are feasible."""
    starts = [b for b in budgets if b - 1 not in budgets]
    stops = [b for b in budgets if b + 1 not in budgets]
    return ", ".join(f"{a} to {b}" if a < b else str(a) for a, b in zip(starts, stops, strict=True))


def _schedule(graph: ErrorGraph, path: tuple[int, ...], objective: str, power: float) -> CacheSchedule:
    budget = len(path)
    solved: dict[str, Any] = {"name": f"plan-{budget}", "budget": budget, "objective": objective}
    if objective == "sum-power":
        solved["power"] = power
    solved |= path_provenance(graph, path)
    return CacheSchedule(graph.num_steps, path, {**graph.provenance, **solved}, forecast_weights(graph, path))


def path_provenance(graph: ErrorGraph, path: tuple[int, ...], forecast: str | None = None) -> dict[str, Any]:
    """The forecast of every edge of the path if not all hold, and which edges were not measured if there are any."""
    edges = [edge for edge in pairwise(path) if edge[1] > edge[0] + 1]
    names = {f"{i}-{j}": forecast or graph.forecasts.get((i, j), "hold") for i, j in edges}
    estimated = [f"{i}-{j}" for i, j in edges if (i, j) in graph.estimated]
    found = {"edge_forecasts": names if set(names.values()) - {"hold"} else None, "estimated_edges": estimated}
    return {key: value for key, value in found.items() if value}


def forecast_weights(
    graph: ErrorGraph, path: tuple[int, ...], forecast: str | None = None
) -> dict[int, tuple[float, ...]]:
    """Reuse step -> weights of the compute steps of ``path`` before it; steps that hold have none.

    By the forecast of the edge it lies in, or by one for all edges.
    """
    weights = {}
    for number, (start, stop) in enumerate(pairwise(path), 1):
        name = forecast or graph.forecasts.get((start, stop), "hold")
        if name != "hold" and graph.model is not None:
            for step in range(start + 1, stop):
                weights[step] = graph.model.weights(name, path[:number], step)
    return {step: found for step, found in weights.items() if found != (1.0,)}


def predicted_error(graph: ErrorGraph, path: tuple[int, ...], forecast: str | None = None) -> float:
    """What is expected of a whole path: the sum over its edges, each with its own forecast or all with one.

    By the graph's model, if it has gains: it knows the compute steps that really come before each edge.
    """
    edges = [(i, j, path[:number]) for number, (i, j) in enumerate(pairwise(path), 1) if j > i + 1]
    if graph.model is None or not graph.model.gains:
        return math.fsum(graph.error(i, j) or 0.0 for i, j, _ in edges)
    return math.fsum(
        graph.model.estimate(i, j, forecast or graph.forecasts.get((i, j), "hold"), before) for i, j, before in edges
    )
