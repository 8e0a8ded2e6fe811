"""`plan` under milliseconds: exact against every choice of actions there is, and clear about what no choice can do."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.errors import GraphError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.planner import plan, plan_all
from dit_accel.profiling.step_actions import StepActions
from dit_accel.schedule import CacheSchedule

OBJECTIVES = ("lexicographic-minimax", "sum-power")
POWER = 2.0
ERRORS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0])  # squares and their sums are exact
Value = tuple[float, ...]


@st.composite
def graphs(draw: st.DrawFn) -> ErrorGraph:
    """3 to 6 steps; edges, partial edges and sparse steps may be missing; whole milliseconds."""
    num_steps = draw(st.integers(3, 6))
    longer = [(i, j) for i in range(num_steps) for j in range(i + 2, num_steps)]
    edges = draw(st.dictionaries(st.sampled_from(longer), ERRORS))
    partial = draw(st.dictionaries(st.sampled_from(sorted(edges)), ERRORS)) if edges else {}
    sparse = draw(st.dictionaries(st.integers(0, num_steps - 2), ERRORS))
    reuse = draw(st.integers(1, 3))
    times = {"full": draw(st.integers(reuse, 12)), "reuse": reuse, "partial": draw(st.integers(1, 8))}
    times["sparse"] = draw(st.integers(1, 12))
    return ErrorGraph(num_steps, edges, actions=StepActions(times, (1, 0), partial, {}, sparse))


def value_of(errors: list[float], objective: str) -> Value:
    """What is minimised. Stretches without error count for nothing."""
    if objective == "sum-power":
        return (math.fsum(error**POWER for error in errors),)
    return tuple(sorted((error for error in errors if error), reverse=True))


def every_schedule(graph: ErrorGraph, objective: str) -> list[tuple[Value, float]]:
    """Value and milliseconds of all of them, by enumeration: nothing here is shared with the planner."""
    actions, found = graph.actions, []
    assert actions is not None
    times, last = actions.milliseconds, graph.num_steps - 1
    for size in range(last):
        for inner in itertools.combinations(range(1, last), size):
            path = (0, *inner, last)
            choices: list[list[tuple[float, float]]] = []  # error and milliseconds
            for step in path:
                sparse = actions.sparse_errors.get(step)
                choices.append([(0.0, times["full"])] + ([] if sparse is None else [(sparse, times["sparse"])]))
            for edge in itertools.pairwise(path):
                between = edge[1] - edge[0] - 1
                if between == 0:
                    continue
                error, partial = graph.edges.get(edge), actions.partial_errors.get(edge)
                choices.append([] if error is None else [(error, between * times["reuse"])])
                if partial is not None:
                    choices[-1].append((partial, between * times["partial"]))
            for choice in itertools.product(*choices):
                value = value_of([error for error, _ in choice], objective)
                found.append((value, float(sum(spent for _, spent in choice))))
    return found


def replayed(graph: ErrorGraph, schedule: CacheSchedule, objective: str) -> tuple[Value, float]:
    """Value and milliseconds of what a schedule says it does."""
    actions = graph.actions
    assert actions is not None
    partial = set(schedule.partial.steps) if schedule.partial else set()
    sparse = set(schedule.sparse.steps) if schedule.sparse else set()
    spent, errors = 0.0, [actions.sparse_errors[step] for step in sparse]
    for step in range(graph.num_steps):
        kind = "full" if step in schedule.compute_steps else "partial" if step in partial else "reuse"
        spent += actions.milliseconds["sparse" if step in sparse else kind]
    for i, j in itertools.pairwise(schedule.compute_steps):
        if j > i + 1:
            between = set(range(i + 1, j))
            assert between <= partial or not between & partial, "an edge is all reused or all partial"
            errors.append(actions.partial_errors[i, j] if between <= partial else graph.edges[i, j])
    assert schedule.compute_steps[-1] == graph.num_steps - 1
    return value_of(errors, objective), spent


@settings(max_examples=300, deadline=None)
@given(graphs(), st.integers(1, 72), st.sampled_from(OBJECTIVES))
def test_exact_against_every_schedule(graph: ErrorGraph, limit: int, objective: str) -> None:
    feasible = [(value, spent) for value, spent in every_schedule(graph, objective) if spent <= limit]
    if not feasible:
        with pytest.raises(GraphError, match=f"No schedule on this graph takes at most {limit} ms"):
            plan(graph, milliseconds=limit, objective=objective, power=POWER)
        return
    schedule = plan(graph, milliseconds=limit, objective=objective, power=POWER)
    value, spent = replayed(graph, schedule, objective)
    assert spent == schedule.provenance["milliseconds"] <= limit
    assert value == min(value for value, _ in feasible)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(1, 72), st.sampled_from(OBJECTIVES))
def test_of_equally_good_schedules_the_fastest(graph: ErrorGraph, limit: int, objective: str) -> None:
    feasible = [found for found in every_schedule(graph, objective) if found[1] <= limit]
    if feasible:
        schedule = plan(graph, milliseconds=limit, objective=objective, power=POWER)
        assert replayed(graph, schedule, objective) == min(feasible)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from(OBJECTIVES))
def test_more_time_is_never_worse(graph: ErrorGraph, objective: str) -> None:
    values = []
    for limit in range(1, 73):
        try:
            schedule = plan(graph, milliseconds=limit, objective=objective, power=POWER)
        except GraphError:
            assert not values, "less time was enough"
            continue
        values.append(replayed(graph, schedule, objective)[0])
    assert values == sorted(values, reverse=True)
    assert values[-1] in ((), (0.0,)), "at 72 ms everything can be computed"


@settings(max_examples=100, deadline=None)
@given(graphs(), st.sampled_from(OBJECTIVES))
def test_with_free_reuse_milliseconds_are_a_budget(graph: ErrorGraph, objective: str) -> None:
    tiny = 2.0**-30
    timed = graph.with_actions(StepActions({"full": 1.0, "reuse": tiny}))
    best: Value | None = None
    for budget, schedule in sorted(plan_all(graph, objective=objective, power=POWER).items()):
        value = replayed(timed, schedule, objective)[0]
        best = value if best is None else min(best, value)  # milliseconds are at most, a budget is exact
        planned = plan(timed, milliseconds=budget + graph.num_steps * tiny, objective=objective, power=POWER)
        assert planned.budget <= budget and replayed(timed, planned, objective)[0] == best
        if value == best and all(replayed(timed, schedule, objective)[0]):
            assert planned.partial is planned.sparse is None


@settings(max_examples=60, deadline=None)
@given(graphs(), st.floats(0.3, 6.0))
def test_a_speedup_is_a_share_of_the_full_time(graph: ErrorGraph, speedup: float) -> None:
    assert graph.actions is not None
    full = graph.num_steps * graph.actions.milliseconds["full"]
    try:
        expected = plan(graph, milliseconds=full / speedup)
    except GraphError:
        with pytest.raises(GraphError, match="No schedule"):
            plan(graph, speedup=speedup)
        return
    found = plan(graph, speedup=speedup)
    assert found == expected
    assert found.provenance["speedup"] == pytest.approx(full / found.provenance["milliseconds"])
    assert found.provenance["speedup"] >= speedup * (1 - 1e-8)


# By hand

TIMES = {"full": 8.0, "reuse": 1.0, "partial": 2.0, "sparse": 4.0}
GRAPH = ErrorGraph(
    5,
    {(0, 2): 2.0, (0, 3): 4.0, (0, 4): 9.0, (1, 3): 3.0, (1, 4): 5.0, (2, 4): 1.0},
    provenance={"model": "mine"},
    actions=StepActions(TIMES, (1, 1), {(0, 2): 0.5, (2, 4): 0.5, (0, 4): 3.0}, {"top_p": 0.5}, {0: 0.25, 2: 6.0}),
)


def test_a_plan_by_hand() -> None:
    assert plan(GRAPH, milliseconds=40).compute_steps == (0, 1, 2, 3, 4)
    # Sparse at 0 (error 0.25) saves 4 of 40 ms, one partial step (0.5) saves 6.
    sparse = plan(GRAPH, milliseconds=36)
    assert sparse.compute_steps == (0, 1, 2, 3, 4) and sparse.partial is None
    assert sparse.sparse is not None and (sparse.sparse.steps, sparse.sparse.config) == ((0,), {"top_p": 0.5})
    fast = plan(GRAPH, milliseconds=28)
    assert fast.compute_steps == (0, 2, 4) and fast.sparse is None and fast.partial is not None
    assert (fast.partial.steps, fast.partial.probe_blocks, fast.partial.corrector_blocks) == ((1, 3), 1, 1)
    assert fast.name == "plan-28ms" and fast.provenance["model"] == "mine" and fast.provenance["budget"] == 3
    assert fast.provenance["milliseconds"] == 28 and fast.provenance["speedup"] == pytest.approx(40 / 28)
    fastest = plan(GRAPH, milliseconds=15)
    assert fastest.compute_steps == (0, 4) and fastest.partial is None and fastest.sparse is not None


def test_the_schedule_survives_its_file(tmp_path: Any) -> None:
    schedule = plan(GRAPH, speedup=1.2)
    assert schedule.partial is not None
    schedule.save(tmp_path / "s.json")
    assert CacheSchedule.load(tmp_path / "s.json") == schedule


def test_exactly_one_limit() -> None:
    for given_, words in (
        ({}, "got none"),
        ({"budget": 3, "milliseconds": 10.0}, "got budget, milliseconds"),
        ({"budget": 3, "speedup": 2.0}, "got budget, speedup"),
        ({"milliseconds": 10.0, "speedup": 2.0}, "got milliseconds, speedup"),
    ):
        with pytest.raises(GraphError, match=f"plan needs one of budget, milliseconds and speedup, {words}"):
            plan(GRAPH, **given_)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf, True, "10", 10**400])
@pytest.mark.parametrize("name", ["milliseconds", "speedup"])
def test_limits_that_are_none(name: str, limit: Any) -> None:
    with pytest.raises(GraphError, match=f"{name} must be a finite number above 0"):
        plan(GRAPH, **{name: limit})


def test_limits_that_no_schedule_keeps() -> None:
    with pytest.raises(GraphError, match=r"takes at most 14 ms: the fastest takes 15 ms, a full run 40 ms"):
        plan(GRAPH, milliseconds=14)  # sparse, three times reuse, full: 15
    assert plan(GRAPH, milliseconds=15).provenance["milliseconds"] == 15
    with pytest.raises(GraphError, match="profile with a larger max_segment"):
        plan(GRAPH, speedup=10)


def test_a_graph_without_times() -> None:
    bare = ErrorGraph(5, GRAPH.edges)
    for limit in ({"milliseconds": 20.0}, {"speedup": 2.0}):
        with pytest.raises(GraphError, match=r"holds no measured milliseconds.*step_times=True"):
            plan(bare, **limit)


def test_objectives_that_are_not_allowed() -> None:
    with pytest.raises(GraphError, match="objective='fastest' is not allowed"):
        plan(GRAPH, milliseconds=20, objective="fastest")
    with pytest.raises(GraphError, match="power must be a finite number above 0"):
        plan(GRAPH, milliseconds=20, objective="sum-power", power=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_a_limit_is_met_whatever_the_unit(scale: float) -> None:
    """Times that no binary fraction is: the sum of what a plan takes, as a limit, gives that plan again."""
    times = {name: value * scale * 0.1 for name, value in TIMES.items()}
    graph = GRAPH.with_actions(
        StepActions(times, (1, 1), GRAPH.actions.partial_errors, {}, GRAPH.actions.sparse_errors)
    )
    for limit in (15, 20, 25, 28, 36, 40):
        schedule = plan(graph, milliseconds=limit * scale * 0.1)
        expected = plan(GRAPH, milliseconds=limit)
        assert (schedule.compute_steps, schedule.partial) == (expected.compute_steps, expected.partial)
        assert plan(graph, milliseconds=schedule.provenance["milliseconds"]) == schedule


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_hundred_steps(objective: str) -> None:
    num_steps, cap = 100, 8
    edges = {
        (i, j): (j - i - 1) * (1.0 + math.sin(7 * i + 3 * j) / 2) / (1 + i)
        for i in range(num_steps)
        for j in range(i + 2, min(i + cap, num_steps - 1) + 1)
    }
    partial = {(i, j): error * (0.4 + math.cos(i * j) / 10) for (i, j), error in edges.items()}
    sparse = {step: 0.3 / (1 + step) for step in range(num_steps - 1)}
    times = {"full": 812.5, "reuse": 31.25, "partial": 187.3, "sparse": 561.7}
    graph = ErrorGraph(num_steps, edges, actions=StepActions(times, (1, 1), partial, {}, sparse))
    speedup = 4.0
    schedule = plan(graph, speedup=speedup, objective=objective, power=POWER)
    value, spent = replayed(graph, schedule, objective)
    assert spent == pytest.approx(schedule.provenance["milliseconds"])
    assert spent <= num_steps * 812.5 / speedup * (1 + 1e-9)
    budget = int((num_steps * 812.5 / speedup - num_steps * 31.25) / (812.5 - 31.25))  # of full and reuse steps alone
    simple = plan_all(graph, objective=objective, power=POWER)[budget]
    assert value < replayed(graph, simple, objective)[0]
