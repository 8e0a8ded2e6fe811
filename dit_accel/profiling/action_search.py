"""Which rollouts of partial and sparse steps a profile runs, and what is known of the others; see `search`."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import pairwise

from ..errors import GraphError
from ..schedule import CacheSchedule
from .error_graph import Edge, ErrorGraph
from .joint import plan_time
from .request import ProfileJob
from .rollout import PARTIAL, SPARSE, Rollout
from .step_actions import StepActions
from .surrogate import Surrogate

Errors = Mapping[Rollout, float]
_SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)  # whose plans a lazy profile measures
_SEEDS = 8  # rollouts of each kind that the others are estimated from


def action_search(
    job: ProfileJob, graph: ErrorGraph, milliseconds: Mapping[str, float]
) -> Generator[Sequence[Rollout], Errors, StepActions]:
    """Measure all of them (``"exact"``), or some, and then those on the plans of a few speed-ups (``"lazy"``)."""
    candidates = _candidates(job, graph)
    if not candidates:
        return _as_actions(job, milliseconds, {}, {})
    if job.mode == "exact" or graph.model is None:
        measured = dict((yield list(candidates)))
        return _as_actions(job, milliseconds, measured, measured)
    measured = dict((yield [*_spread(candidates, PARTIAL), *_spread(candidates, SPARSE)]))
    surrogate = Surrogate(_scaled(candidates, measured))
    while True:
        errors = {rollout: belief.middle for rollout, belief in surrogate.beliefs(measured).items()}
        actions = _as_actions(job, milliseconds, errors, measured)
        wanted = [] if job.mode == "estimate" else _on_plans(job, graph, actions, measured)
        if not wanted:
            return actions
        measured |= yield wanted


def _candidates(job: ProfileJob, graph: ErrorGraph) -> dict[Rollout, float]:
    """Every rollout there is -> a number that its error is roughly proportional to."""
    found: dict[Rollout, float] = {}
    if job.partial_blocks is not None:
        found |= {Rollout(i, j, PARTIAL): error for (i, j), error in sorted(graph.edges.items()) if j > i + 1}
    if job.sparse_config is not None:
        gains = graph.model.gains if graph.model is not None else ()
        # Not the last step, which has no edge of its own: it stays dense.
        found |= {Rollout(k, k + 1, SPARSE): gains[k] if gains else 1.0 for k in range(graph.num_steps - 1)}
    return found


def _spread(candidates: Iterable[Rollout], action: str) -> list[Rollout]:
    """Some of the rollouts of ``action``, evenly over the list."""
    all_ = [rollout for rollout in candidates if rollout.action == action]
    count = min(_SEEDS, len(all_))
    return [all_[round(k * (len(all_) - 1) / max(1, count - 1))] for k in range(count)]


def _scaled(candidates: Errors, measured: Errors) -> dict[Rollout, float]:
    """The candidates' numbers times the geometric mean of what was measured over them, each action by itself."""
    factors = {}
    for action in (PARTIAL, SPARSE):
        ratios = [
            math.log(error / candidates[rollout])
            for rollout, error in measured.items()
            if rollout.action == action and error > 0 and candidates[rollout] > 0
        ]
        factors[action] = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
    return {rollout: value * factors[rollout.action] for rollout, value in candidates.items()}


def _on_plans(job: ProfileJob, graph: ErrorGraph, actions: StepActions, measured: Errors) -> list[Rollout]:
    """What the plans of a few speed-ups use and is not measured yet."""
    wanted: dict[Rollout, None] = {}
    with_actions = graph.with_actions(actions)
    for speedup in _SPEEDUPS:
        try:
            schedule = plan_time(with_actions, None, speedup, job.objective, job.power)
        except GraphError:  # too fast for this graph
            continue
        wanted |= dict.fromkeys(rollout for rollout in rollouts_of(schedule) if rollout not in measured)
    return list(wanted)


def rollouts_of(schedule: CacheSchedule) -> list[Rollout]:
    """The partial edges and sparse steps of a schedule."""
    partial = set(schedule.partial.steps) if schedule.partial is not None else set()
    sparse = schedule.sparse.steps if schedule.sparse is not None else ()
    edges: list[Edge] = [(i, j) for i, j in pairwise(schedule.compute_steps) if i + 1 in partial]
    return [Rollout(i, j, PARTIAL) for i, j in edges] + [Rollout(k, k + 1, SPARSE) for k in sparse]


def _as_actions(job: ProfileJob, milliseconds: Mapping[str, float], errors: Errors, measured: Errors) -> StepActions:
    partial = {rollout.edge: error for rollout, error in errors.items() if rollout.action == PARTIAL}
    sparse = {rollout.start: error for rollout, error in errors.items() if rollout.action == SPARSE}
    return StepActions(
        milliseconds,
        job.partial_blocks,
        partial,
        job.sparse_config,
        sparse,
        frozenset(edge for edge in partial if Rollout(*edge, PARTIAL) not in measured),
        frozenset(step for step in sparse if Rollout(step, step + 1, SPARSE) not in measured),
    )
