"""The searches, driven without a pipeline: what they ask for, and what they make of the answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dit_accel.errors import JobError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.planner import plan_all
from dit_accel.profiling.request import ProfileJob
from dit_accel.profiling.residual_model import FORECASTS, ResidualModel
from dit_accel.profiling.rollout import Batch, Rollout
from dit_accel.profiling.search import SEARCHES, Findings
from dit_accel.profiling.surrogate import Belief, Surrogate

NUM_STEPS, MAX_SEGMENT = 16, 7
TIMES = np.linspace(-4.0, 3.0, NUM_STEPS)
ALL = tuple(FORECASTS)
Oracle = dict[Rollout, float]


def job(mode: str, **options: Any) -> ProfileJob:
    fields = {"mode": mode, "forecasts": ALL, "budgets": tuple(range(4, 11)), **options}
    return ProfileJob((Batch(("a prompt",), 0),), NUM_STEPS, MAX_SEGMENT, {}, **fields)


def synthetic_model(seed: int) -> tuple[ResidualModel, ResidualModel]:
    """Residuals that turn smoothly: as a trajectory gives them, and with the gains that they truly have."""
    noise = np.random.default_rng(seed)
    waves = noise.normal(size=(24, 200)) / np.arange(1, 25)[:, None]
    phases = noise.uniform(0, 2 * math.pi, size=24)
    residuals = np.cos(np.outer(TIMES, np.linspace(0.1, 1.2, 24)) + phases) @ waves
    bare = ResidualModel(tuple(TIMES.tolist()), residuals @ residuals.T / 200)
    density = np.exp(0.3 * TIMES + 0.2 * np.sin(TIMES))
    return bare, dataclasses.replace(bare, gains=tuple((density * bare.step_sizes).tolist()))


def oracle_of(model: ResidualModel, seed: int, scatter: float = 0.1) -> Oracle:
    """True errors: the estimates times a log-normal factor that is smooth over start and stop."""
    noise = np.random.default_rng(seed)
    field = {action: noise.normal(size=(2, 6)) for action in ALL}

    def factor(rollout: Rollout) -> float:
        a, b = field[rollout.action]
        waves = np.arange(1, 7) / 5
        smooth = np.sum(a * np.sin(waves * rollout.start) + b * np.cos(waves * rollout.stop)) / math.sqrt(6)
        return math.exp(scatter * float(smooth))

    return {r: model.estimate(r.start, r.stop, r.action) * factor(r) for r in job("exact").rollouts()}


def drive(chosen: ProfileJob, model: ResidualModel | None, truth: Oracle) -> tuple[list[list[Rollout]], Findings]:
    """Every request of the search, and its findings."""
    search, requests = SEARCHES[chosen.mode](chosen, model), []
    wanted: Sequence[Rollout] = next(search)
    while True:
        requests.append(list(wanted))
        try:
            wanted = search.send({rollout: truth[rollout] for rollout in wanted})
        except StopIteration as end:
            return requests, end.value


def asked(requests: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for request in requests for rollout in request]


def best_errors(truth: Mapping[Rollout, float]) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = {}
    for rollout, error in truth.items():
        found[rollout.edge] = min(error, found.get(rollout.edge, math.inf))
    return found


def paths(chosen: ProfileJob, errors: Mapping[tuple[int, int], float]) -> dict[int, tuple[int, ...]]:
    plans = plan_all(ErrorGraph(NUM_STEPS, errors), objective=chosen.objective, power=chosen.power)
    return {budget: plans[budget].compute_steps for budget in chosen.budgets}


# exact


def test_exact_asks_for_everything_once():
    bare, model = synthetic_model(0)
    truth = oracle_of(model, 0)
    requests, found = drive(job("exact"), bare, truth)
    assert requests == [list(job("exact").rollouts())]
    lengths = [min(MAX_SEGMENT, NUM_STEPS - 1 - start) - 1 for start in range(NUM_STEPS - 2)]
    assert len(set(requests[0])) == len(requests[0]) == sum(lengths) * len(ALL)
    assert (found.measured, found.estimated) == (truth, {})
    # Every gain between the ends is measured, so it is the one that made the error of that edge.
    for step in range(1, NUM_STEPS - 1):
        assert found.model.estimate(step - 1, step + 1, "hold") == pytest.approx(truth[Rollout(step - 1, step + 1)])


def test_exact_needs_no_model_and_no_error_above_zero():
    bare, model = synthetic_model(1)
    assert drive(job("exact"), None, oracle_of(model, 1))[1].model is None
    nothing = dict.fromkeys(oracle_of(model, 1), 0.0)
    assert drive(job("exact"), bare, nothing)[1].model is bare
    fitted = job("exact", forecasts=("fitted",))
    assert drive(fitted, bare, oracle_of(model, 1))[1].model is bare  # gains are told by edges that hold


# estimate


def test_estimate_asks_for_gains_alone():
    bare, model = synthetic_model(2)
    truth = oracle_of(model, 2, scatter=0.0)
    requests, found = drive(job("estimate"), bare, truth)
    assert len(requests) == 1
    assert all((r.action, r.stop - r.start) == ("hold", 2) for r in requests[0])
    assert 1 < len(set(requests[0])) == len(requests[0]) < NUM_STEPS - 2
    assert found.measured == {}
    assert list(found.estimated) == list(job("estimate").rollouts())
    for rollout, error in found.estimated.items():
        assert error == found.model.estimate(*rollout.edge, rollout.action)
        # Without scatter only the interpolation of gains between the steps of the request is off.
        assert error == pytest.approx(truth[rollout], rel=0.25)


@pytest.mark.parametrize("mode", ["estimate", "lazy"])
def test_residuals_that_cannot_be_compared_are_told(mode):
    with pytest.raises(JobError, match=rf"mode='{mode}' compares residuals of different steps.*Use mode='exact'"):
        next(SEARCHES[mode](job(mode), None))


# lazy


VARIANTS: list[dict[str, Any]] = [
    {},
    {"forecasts": ("hold",)},
    {"objective": "sum-power", "power": 2.0, "forecasts": ("hold", "fitted")},
    {"safety": 4.0, "budgets": (5, 8)},
]
variants = pytest.mark.parametrize("options", VARIANTS, ids=["all forecasts", "hold", "sum-power", "two budgets"])


@pytest.mark.parametrize("seed", range(2))
@variants
def test_lazy_asks_for_little_and_for_nothing_twice(seed, options):
    bare, model = synthetic_model(seed)
    chosen = job("lazy", **options)
    every, truth = set(chosen.rollouts()), oracle_of(model, seed)
    requests, found = drive(chosen, bare, truth)
    known = asked(requests)
    assert len(known) == len(set(known)), "a rollout was asked for twice"
    assert requests[0] == drive(job("estimate"), bare, truth)[0][0] and all(len(r) > 0 for r in requests)
    assert set(known) <= every and len(known) < len(every) / 2
    assert found.measured == {rollout: truth[rollout] for rollout in known}
    assert set(found.estimated) == every - set(known)
    assert drive(chosen, bare, truth)[0] == requests, "an interrupted job would ask for others"


@pytest.mark.parametrize("seed", range(2))
@variants
def test_no_errors_within_the_intervals_make_another_plan_better(seed, options):
    bare, model = synthetic_model(seed)
    chosen = job("lazy", **options)
    every, truth = list(chosen.rollouts()), oracle_of(model, seed)
    requests, found = drive(chosen, bare, truth)
    beliefs, noise = final_beliefs(chosen, bare, requests, truth), np.random.default_rng(seed)
    low = {r: beliefs[r].low(chosen.safety) for r in every}
    high = {r: beliefs[r].high(chosen.safety) for r in every}
    planned = paths(chosen, {edge: error for edge, (_, error) in found.best().items()})
    assert any(low[r] < high[r] for r in every)
    worlds = [{r: min(max(truth[r], low[r]), high[r]) for r in every}]
    worlds += [{r: noise.uniform(low[r], high[r]) for r in every} for _ in range(5)]
    worlds += [{r: noise.choice([low[r], high[r]]) for r in every} for _ in range(5)]
    assert drive(chosen, bare, truth | worlds[0])[0] == requests  # it has not looked at what it has not asked for
    assert all(paths(chosen, best_errors(world)) == planned for world in worlds)
    for budget, path in planned.items():
        edges = set(pairwise(path))
        worst = best_errors({r: high[r] if r.edge in edges else low[r] for r in every})
        assert paths(chosen, worst)[budget] == path


def final_beliefs(
    chosen: ProfileJob, bare: ResidualModel, requests: list[list[Rollout]], truth: Oracle
) -> dict[Rollout, Belief]:
    """What is believed at the end, found out anew."""
    model = bare.with_gains({r.edge: truth[r] for r in requests[0]})
    rollouts = list(dict.fromkeys([*requests[0], *chosen.rollouts()]))
    surrogate = Surrogate({r: model.estimate(*r.edge, r.action) for r in rollouts})
    return surrogate.beliefs({r: truth[r] for r in asked(requests)})


@pytest.mark.parametrize("seed", range(2))
def test_more_safety_asks_for_more(seed):
    bare, model = synthetic_model(seed)
    truth = oracle_of(model, seed)
    counts = [len(asked(drive(job("lazy", safety=safety), bare, truth)[0])) for safety in (0.0, 2.0, 8.0)]
    assert counts[0] <= counts[1] < counts[2] < len(truth)


def test_lazy_finds_the_exhaustive_plans_where_estimates_are_a_tenth_off():
    """Not promised, as errors may lie outside their intervals; but if this went wrong often, it would be of no use."""
    equal = []
    for seed in range(6):
        bare, model = synthetic_model(seed)
        chosen, truth = job("lazy", safety=4.0, forecasts=("hold",)), oracle_of(model, seed)
        found = drive(chosen, bare, truth)[1]
        exhaustive = paths(chosen, best_errors({r: truth[r] for r in chosen.rollouts()}))
        planned = paths(chosen, {edge: error for edge, (_, error) in found.best().items()})
        equal += [planned[budget] == path for budget, path in exhaustive.items()]
    assert sum(equal) > 0.9 * len(equal)


# What an edge keeps


def test_an_edge_keeps_its_best_rollout():
    hold, fitted, taylor = (Rollout(2, 5, name) for name in ("hold", "fitted", "taylor1"))
    other = Rollout(3, 5)
    best = Findings({hold: 0.5, fitted: 0.25}, {taylor: 0.375, other: 1.0}, None).best()
    assert best == {(2, 5): (fitted, 0.25), (3, 5): (other, 1.0)}
    assert Findings({hold: 0.5}, {taylor: 0.375}, None).best() == {(2, 5): (taylor, 0.375)}
    assert Findings({hold: 0.5}, {taylor: 0.5}, None).best() == {(2, 5): (hold, 0.5)}  # rather a measured one
    assert Findings({hold: 0.5, fitted: 0.5}, {}, None).best() == {(2, 5): (hold, 0.5)}


def test_lazy_and_exact_keep_the_best_forecast_of_every_edge():
    bare, model = synthetic_model(5)
    truth = oracle_of(model, 5)
    exact = drive(job("exact"), bare, truth)[1].best()
    assert {edge: error for edge, (_, error) in exact.items()} == best_errors(truth)
    assert all(truth[rollout] == error for rollout, error in exact.values())
    assert len({rollout.action for rollout, _ in exact.values()}) > 1
    found = drive(job("lazy"), bare, truth)[1]
    known = found.measured | found.estimated
    for edge, (rollout, error) in found.best().items():
        assert rollout.edge == edge
        assert error == known[rollout] == min(known[r] for r in known if r.edge == edge)
