"""The planner: which steps to compute under a budget, exactly, by dynamic programming over the error graph.

State (j, b): the best path from step 0 to step j with b full steps. For lexicographic minimax its value is the
descending list of edge errors on the path. Appending one equal number to two lists of equal length keeps their order,
so the best prefix stays best and the recursion is exact, ties included.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Literal, get_args

from ..errors import GraphError
from ..schedule import CacheSchedule, is_number, quoted
from .error_graph import ErrorGraph

Objective = Literal["lexicographic-minimax", "sum-power"]
Value = tuple[float, ...]
Extend = Callable[[Value, float], Value]


def plan(
    graph: ErrorGraph, budget: int, *, objective: str = "lexicographic-minimax", power: float = 4.0
) -> CacheSchedule:
    """The schedule of exactly ``budget`` full steps with the smallest error.

    Args:
        graph: measured errors; the path runs from step 0 to the last step.
        budget: number of full steps. More: slower, and closer to the full run.
        objective: ``"lexicographic-minimax"`` (the paper's): the largest edge error is smallest, then the second
            largest, and so on. ``"sum-power"``: the sum of ``error ** power`` is smallest, in floating point.
        power: exponent of ``"sum-power"``, above 0. Larger: nearer to minimax.

    Returns:
        A schedule with the graph's provenance. Among exact ties the earliest predecessor wins: plans are reproducible.

    Raises:
        GraphError: the budget is not feasible on this graph, or the objective or power is not allowed.

    Paper: LeMiCa Eq. 5; B is ``budget``.
    """
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
    extend = _extension(objective, power, max(graph.edges.values(), default=0.0))
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


def _extension(objective: str, power: float, worst: float) -> Extend:
    """How a path's value grows by one edge; ``worst`` is the largest error there is."""
    if objective == "lexicographic-minimax":
        return _insert_descending
    if objective != "sum-power":
        raise GraphError(f"objective={objective!r} is not allowed. Use one of: {', '.join(get_args(Objective))}.")
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
    solved = {"name": f"plan-{budget}", "budget": budget, "objective": objective}
    if objective == "sum-power":
        solved["power"] = power
    return CacheSchedule(graph.num_steps, path, {**graph.provenance, **solved})
