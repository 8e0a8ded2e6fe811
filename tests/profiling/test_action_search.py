"""Which partial and sparse steps are rolled out, with an oracle in place of a pipeline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dit_accel import SVG2Config
from dit_accel.errors import GraphError
from dit_accel.profiling import action_search as module
from dit_accel.profiling.action_search import action_search, rollouts_of
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.joint import plan_time
from dit_accel.profiling.request import ProfileJob, checked_job
from dit_accel.profiling.residual_model import ResidualModel
from dit_accel.profiling.rollout import PARTIAL, SPARSE, Rollout
from dit_accel.profiling.step_actions import StepActions

NUM_STEPS, MAX_SEGMENT = 14, 5
TIMES = {"full": 10.0, "reuse": 0.5, "partial": 3.0, "sparse": 6.0}
BOTH = {"partial_blocks": (1, 1), "sparse": SVG2Config(top_p=0.5)}
Oracle = Callable[[Rollout], float]


def job(mode: str = "lazy", **changes: Any) -> ProfileJob:
    settings = {"num_inference_steps": NUM_STEPS, "max_segment": MAX_SEGMENT, "mode": mode, **BOTH, **changes}
    return checked_job(["a red seven"], **settings)


def graph(*, has_model: bool = True, num_steps: int = NUM_STEPS) -> ErrorGraph:
    edges = {
        (i, j): (j - i - 1) * (2 + math.sin(3 * i + j)) / (1 + i)
        for i in range(num_steps - 2)
        for j in range(i + 2, min(i + MAX_SEGMENT, num_steps - 1) + 1)
    }
    times = tuple(np.linspace(-3, 4, num_steps))
    gains = tuple(1 / (1 + step) for step in range(num_steps))
    model = ResidualModel(times, np.exp(-(np.subtract.outer(times, times) ** 2)), gains)
    return ErrorGraph(num_steps, edges, model=model if has_model else None)


def smooth(rollout: Rollout) -> float:
    """What errors may be like: nearly proportional to the estimates."""
    if rollout.action == SPARSE:
        return 0.3 * (1 + 0.2 * math.sin(rollout.start)) / (1 + rollout.start)
    return 0.2 * graph().edges[rollout.edge] * (1 + 0.3 * math.sin(rollout.start / 4))


def rough(rollout: Rollout) -> float:
    """What the estimates know nothing of."""
    return 0.01 + abs(math.sin(91.7 * rollout.start + 17.3 * rollout.stop + len(rollout.action)))


def zero(rollout: Rollout) -> float:
    return 0.0


def followed(asked: ProfileJob, found: ErrorGraph, oracle: Oracle) -> tuple[StepActions, list[list[Rollout]]]:
    """What the search finds, and what it asked for, round by round."""
    search, rounds = action_search(asked, found, TIMES), []
    try:
        wanted = next(search)
        while True:
            rounds.append(list(wanted))
            wanted = search.send({rollout: oracle(rollout) for rollout in wanted})
    except StopIteration as end:
        return end.value, rounds


def every_rollout(found: ErrorGraph) -> set[Rollout]:
    partial = {Rollout(i, j, PARTIAL) for i, j in found.edges}
    return partial | {Rollout(step, step + 1, SPARSE) for step in range(found.num_steps - 1)}


def errors_of(actions: StepActions) -> dict[Rollout, float]:
    partial = {Rollout(*edge, PARTIAL): error for edge, error in actions.partial_errors.items()}
    return partial | {Rollout(step, step + 1, SPARSE): error for step, error in actions.sparse_errors.items()}


def estimated(actions: StepActions) -> set[Rollout]:
    partial = {Rollout(*edge, PARTIAL) for edge in actions.estimated_partial}
    return partial | {Rollout(step, step + 1, SPARSE) for step in actions.estimated_sparse}


@pytest.mark.parametrize(("mode", "has_model"), [("exact", True), ("exact", False)])
def test_exact_measures_all_of_them_once(mode: str, has_model: bool) -> None:
    found = graph(has_model=has_model)
    actions, rounds = followed(job(mode), found, rough)
    assert len(rounds) == 1 and len(rounds[0]) == len(set(rounds[0])) and set(rounds[0]) == every_rollout(found)
    assert errors_of(actions) == {rollout: rough(rollout) for rollout in every_rollout(found)}
    assert estimated(actions) == set()
    assert (actions.milliseconds, actions.partial_blocks) == (TIMES, (1, 1))
    assert actions.sparse_config == {"top_p": 0.5}


@pytest.mark.parametrize("oracle", [smooth, rough, zero])
@pytest.mark.parametrize("objective", ["lexicographic-minimax", "sum-power"])
def test_lazy_ends_with_measured_plans(oracle: Oracle, objective: str) -> None:
    found, asked = graph(), job(objective=objective)
    actions, rounds = followed(asked, found, oracle)
    flat = [rollout for wanted in rounds for rollout in wanted]
    assert len(flat) == len(set(flat)), "something is asked for twice"
    assert all(rounds) and set(flat) < every_rollout(found)
    known = errors_of(actions)
    assert set(known) == every_rollout(found) and estimated(actions) == every_rollout(found) - set(flat)
    assert {rollout: known[rollout] for rollout in flat} == {rollout: oracle(rollout) for rollout in flat}
    used = set()
    for speedup in module._SPEEDUPS:
        try:
            schedule = plan_time(found.with_actions(actions), None, speedup, objective, asked.power)
        except GraphError:
            continue
        assert set(rollouts_of(schedule)) <= set(flat), speedup
        used |= set(rollouts_of(schedule))
    assert {rollout.action for rollout in used} == {PARTIAL, SPARSE}


def test_lazy_estimates_are_near_what_is_measured() -> None:
    actions, rounds = followed(job(), graph(), smooth)
    ratios = [math.log(error / smooth(rollout)) for rollout, error in errors_of(actions).items()]
    assert float(np.sqrt(np.mean(np.square(ratios)))) < 0.25
    assert sum(map(len, rounds)) < len(every_rollout(graph())) / 2


def test_estimate_asks_once() -> None:
    found = graph()
    actions, rounds = followed(job("estimate"), found, smooth)
    assert len(rounds) == 1 and len(rounds[0]) == len(set(rounds[0])) == 2 * module._SEEDS
    assert set(errors_of(actions)) == every_rollout(found)
    assert estimated(actions) == every_rollout(found) - set(rounds[0])


@pytest.mark.parametrize("mode", ["exact", "lazy", "estimate"])
@pytest.mark.parametrize(("left_out", "action"), [("partial_blocks", SPARSE), ("sparse", PARTIAL)])
def test_one_kind_alone(mode: str, left_out: str, action: str) -> None:
    actions, rounds = followed(job(mode, **{left_out: None}), graph(), smooth)
    assert {rollout.action for wanted in rounds for rollout in wanted} == {action}
    assert {rollout.action for rollout in errors_of(actions)} == {action}


@pytest.mark.parametrize("mode", ["exact", "lazy", "estimate"])
def test_times_alone_need_no_rollout(mode: str) -> None:
    asked = job(mode, partial_blocks=None, sparse=None, step_times=True)
    actions, rounds = followed(asked, graph(), smooth)
    assert list(itertools.chain(*rounds)) == []
    assert actions == StepActions(TIMES)


@pytest.mark.parametrize("mode", ["exact", "lazy", "estimate"])
def test_a_graph_with_no_more_rollouts_than_the_first(mode: str) -> None:
    small = graph(num_steps=4)
    actions, rounds = followed(job(mode, num_inference_steps=4, max_segment=3), small, smooth)
    assert set(itertools.chain(*rounds)) == every_rollout(small) == set(errors_of(actions))
    assert estimated(actions) == set()


def test_it_asks_the_same_again() -> None:
    """What an interrupted job relies on."""
    assert followed(job(), graph(), rough) == followed(job(), graph(), rough)
