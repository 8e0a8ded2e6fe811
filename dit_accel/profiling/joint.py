"""The joint planner: full, sparse, partial and reuse steps in one schedule under a budget of milliseconds, exactly.

A path's nodes are its full or sparse steps; the steps of an edge are all reused or all partial. A label at a node is
the time spent and the error so far; of two labels, one that is no faster and no better is dropped. Both grow by the
same amounts along an edge, so a dropped label could never have become the best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

from ..actions import PartialSteps, SparseSteps
from ..documents import is_number, quoted
from ..errors import GraphError
from ..schedule import CacheSchedule
from .error_graph import ErrorGraph
from .planner import Extend, Value, error_extension, forecast_weights, path_provenance
from .step_actions import StepActions

_ROUNDING = 1e-9  # of the limit: sums of the same times in another order


@dataclass(frozen=True, slots=True)
class _Move:
    """One way from a node to another: what it costs. ``errors`` are those above 0."""

    stop: int
    milliseconds: float
    errors: tuple[float, ...]
    is_partial: bool
    is_sparse: bool


@dataclass(frozen=True, slots=True)
class _Label:
    """The best way found to ``node`` for its time; ``move`` came last."""

    milliseconds: float
    value: Value
    node: int
    move: _Move | None = None
    before: _Label | None = None


def plan_time(
    graph: ErrorGraph, milliseconds: float | None, speedup: float | None, objective: str, power: float
) -> CacheSchedule:
    """The schedule with the smallest error whose steps take no longer than asked; see `dit_accel.plan`."""
    actions = graph.actions
    if actions is None:
        raise GraphError(
            "This graph holds no measured milliseconds, so only a budget of full steps can be planned. Profile with "
            "step_times=True."
        )
    limit = _limit(graph, actions, milliseconds, speedup)
    moves = [_moves(graph, actions, start) for start in range(graph.num_steps)]
    least = _least_times(moves)
    if least[0] > limit * (1 + _ROUNDING):
        raise GraphError(
            f"No schedule on this graph takes at most {limit:.6g} ms: the fastest takes {least[0]:.6g} ms, a full run "
            f"{graph.num_steps * actions.milliseconds['full']:.6g} ms. Allow more time, or profile with a larger "
            "max_segment."
        )
    worst = max((error for found in moves for move in found for error in move.errors), default=0.0)
    extend = error_extension(objective, power, worst)
    if objective == "lexicographic-minimax":
        moves = _without_large_errors(moves, limit)
    return _as_schedule(graph, actions, _best(moves, limit, extend), objective, power)


def _limit(graph: ErrorGraph, actions: StepActions, milliseconds: float | None, speedup: float | None) -> float:
    for name, value in (("milliseconds", milliseconds), ("speedup", speedup)):
        if value is not None and (not is_number(value) or value <= 0):
            raise GraphError(f"{name} must be a finite number above 0, got {quoted(value)}.")
    if milliseconds is not None:
        return milliseconds
    assert speedup is not None
    return graph.num_steps * actions.milliseconds["full"] / speedup


def _moves(graph: ErrorGraph, actions: StepActions, start: int) -> list[_Move]:
    """All that can be done from ``start`` on: the node dense or sparse, each edge reused or partial."""
    times = actions.milliseconds
    stops = [start + 1, *sorted(j for i, j in graph.edges if i == start and j > start + 1)]
    nodes: list[tuple[float, tuple[float, ...], bool]] = [(times["full"], (), False)]
    if start in actions.sparse_errors:
        nodes.append((times["sparse"], _positive(actions.sparse_errors[start]), True))
    found = []
    for node_ms, node_errors, is_sparse in nodes:
        for stop in stops:
            between = stop - start - 1
            error = _positive(graph.error(start, stop) or 0.0) if between else ()
            found.append(_Move(stop, node_ms + between * times["reuse"], node_errors + error, False, is_sparse))
            if between and (start, stop) in actions.partial_errors:
                error = _positive(actions.partial_errors[start, stop])
                found.append(_Move(stop, node_ms + between * times["partial"], node_errors + error, True, is_sparse))
    return found


def _positive(error: float) -> tuple[float, ...]:
    return (error,) if error > 0 else ()


def _least_times(moves: list[list[_Move]], worst: float = math.inf) -> list[float]:
    """For every node, the milliseconds that the rest takes at least, with errors of at most ``worst``."""
    least = [math.inf] * len(moves) + [0.0]
    for start in reversed(range(len(moves))):
        allowed = [move for move in moves[start] if max(move.errors, default=0.0) <= worst]
        least[start] = min((move.milliseconds + least[move.stop] for move in allowed), default=math.inf)
    return least


def _without_large_errors(moves: list[list[_Move]], limit: float) -> list[list[_Move]]:
    """The moves up to the smallest largest error that any schedule within the limit has: no better one has more."""
    errors = sorted({0.0, *(error for found in moves for move in found for error in move.errors)})
    low, high = 0, len(errors) - 1
    while low < high:
        middle = (low + high) // 2
        if _least_times(moves, errors[middle])[0] <= limit * (1 + _ROUNDING):
            high = middle
        else:
            low = middle + 1
    return [[move for move in found if max(move.errors, default=0.0) <= errors[low]] for found in moves]


def _best(moves: list[list[_Move]], limit: float, extend: Extend) -> _Label:
    """The best label at the end; of equally good ones the fastest."""
    least = _least_times(moves)
    labels: list[list[_Label]] = [[] for _ in least]
    labels[0] = [_Label(0.0, (), 0)]
    for start, found in enumerate(moves):
        for before in _undominated(labels[start]):
            for move in found:
                spent = before.milliseconds + move.milliseconds
                if spent + least[move.stop] <= limit * (1 + _ROUNDING):
                    value = reduce(extend, move.errors, before.value)
                    labels[move.stop].append(_Label(spent, value, move.stop, move, before))
    return min(labels[-1], key=lambda label: (label.value, label.milliseconds))


def _undominated(labels: list[_Label]) -> list[_Label]:
    """Those that are better than every one that is no slower; of equal ones the first."""
    kept: list[_Label] = []
    for label in sorted(labels, key=lambda label: (label.milliseconds, label.value)):
        if not kept or label.value < kept[-1].value:
            kept.append(label)
    return kept


def _as_schedule(graph: ErrorGraph, actions: StepActions, last: _Label, objective: str, power: float) -> CacheSchedule:
    """The schedule of the way to ``last``."""
    way = [last]
    while way[-1].before is not None:
        way.append(way[-1].before)
    way.reverse()
    compute = tuple(label.node for label in way[:-1])
    hops = [(a.node, b.node, b.move) for a, b in pairwise(way)]
    partial = [step for i, j, move in hops if move and move.is_partial for step in range(i + 1, j)]
    sparse = [i for i, _, move in hops if move and move.is_sparse]
    solved: dict[str, Any] = {
        "name": f"plan-{last.milliseconds:.0f}ms",
        "objective": objective,
        "budget": len(compute),
        "milliseconds": last.milliseconds,
        "speedup": graph.num_steps * actions.milliseconds["full"] / last.milliseconds,
    }
    if objective == "sum-power":
        solved["power"] = power
    solved |= path_provenance(graph, compute)
    weights = forecast_weights(graph, compute)
    for step in partial:
        before = tuple(source for source in compute if source < step)
        weights[step] = (1.0,) if graph.model is None else graph.model.weights("fitted", before, step)
    probe, corrector = actions.partial_blocks or (0, 0)
    return CacheSchedule(
        graph.num_steps,
        compute,
        {**graph.provenance, **solved},
        weights,
        PartialSteps(tuple(partial), probe, corrector) if partial else None,
        SparseSteps(tuple(sparse), actions.sparse_config or {}) if sparse else None,
    )
