"""What must hold of every plan, beside being the best: how it changes when the graph or the limit does."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.planner import plan, plan_all
from dit_accel.profiling.step_actions import StepActions

from ..conftest import examples
from .test_joint import every_schedule, replayed
from .test_planner import GRAPHS, lexicographic, power_sum

OBJECTIVES = st.sampled_from(["lexicographic-minimax", "sum-power"])
SCALES = st.sampled_from([2.0**-40, 0.5, 2.0, 2.0**300])  # a multiplication is exact


def scaled(graph: ErrorGraph, scale: float) -> ErrorGraph:
    return ErrorGraph(graph.num_steps, {edge: error * scale for edge, error in graph.edges.items()})


def steps_of(plans: dict[int, Any]) -> dict[int, tuple[int, ...]]:
    return {budget: schedule.compute_steps for budget, schedule in plans.items()}


@given(GRAPHS, SCALES, OBJECTIVES)
@examples(120)
def test_the_unit_of_errors_does_not_matter(graph: ErrorGraph, scale: float, objective: str) -> None:
    how: dict[str, Any] = {"objective": objective, "power": 2.0}
    assert steps_of(plan_all(scaled(graph, scale), **how)) == steps_of(plan_all(graph, **how))


@given(GRAPHS)
@examples(120)
def test_time_may_run_backwards(graph: ErrorGraph) -> None:
    """The same graph with its steps named from the end has plans that are as good, of the same budgets."""
    last = graph.num_steps - 1
    mirrored = ErrorGraph(graph.num_steps, {(last - j, last - i): error for (i, j), error in graph.edges.items()})
    there, back = plan_all(graph), plan_all(mirrored)
    assert set(there) == set(back)
    for budget, schedule in there.items():
        found = lexicographic(mirrored, back[budget].compute_steps)
        assert found == lexicographic(graph, schedule.compute_steps)


@given(st.lists(st.integers(0, 8), min_size=3, max_size=9), st.sampled_from([1.0, 2.0]), st.integers(2, 9))
@examples(120)
def test_more_steps_are_no_worse_where_shorter_stretches_are_no_worse(
    local: list[int], power: float, longest: int
) -> None:
    """Of errors that add up along a stretch every plan can be refined, unless there is no budget in between."""
    edges = {
        (i, j): float(sum(local[i + 1 : j])) ** 2
        for i in range(len(local))
        for j in range(i + 2, min(i + longest + 1, len(local)))
    }
    graph = ErrorGraph(len(local), edges)
    largest = [lexicographic(graph, schedule.compute_steps)[0] for _, schedule in sorted(plan_all(graph).items())]
    assert largest == sorted(largest, reverse=True) and largest[-1] == 0
    plans = plan_all(graph, objective="sum-power", power=power)
    sums = [power_sum(graph, schedule.compute_steps, power) for _, schedule in sorted(plans.items())]
    assert sums == sorted(sums, reverse=True)


@given(GRAPHS, OBJECTIVES)
@examples(60)
def test_all_budgets_at_once_are_those_one_by_one(graph: ErrorGraph, objective: str) -> None:
    for budget, schedule in plan_all(graph, objective=objective).items():
        assert plan(graph, budget, objective=objective) == schedule == graph.plan_all(objective=objective)[budget]


TIMES = st.floats(0.1, 9.0)


@st.composite
def timed_graphs(draw: st.DrawFn) -> ErrorGraph:
    """3 to 5 steps, with errors and milliseconds that are any floats."""
    num_steps = draw(st.integers(3, 5))
    longer = [(i, j) for i in range(num_steps) for j in range(i + 2, num_steps)]
    edges, partial = (draw(st.dictionaries(st.sampled_from(longer), st.floats(0, 4))) for _ in range(2))
    sparse = draw(st.dictionaries(st.integers(0, num_steps - 2), st.floats(0, 4)))
    times = {name: draw(TIMES) for name in ("full", "reuse", "partial", "sparse")}
    partial = {edge: error for edge, error in partial.items() if edge in edges}
    return ErrorGraph(num_steps, edges, actions=StepActions(times, (1, 0), partial, {}, sparse))


@given(timed_graphs(), st.floats(0.0, 1.2))
@examples(120)
def test_within_the_limit_and_not_dominated(graph: ErrorGraph, share: float) -> None:
    """The limit is a share of the way from the fastest to the full run, or above."""
    every = every_schedule(graph, "lexicographic-minimax")
    assert graph.actions is not None
    fastest, full = min(spent for _, spent in every), graph.num_steps * graph.actions.milliseconds["full"]
    limit = fastest + share * max(0.0, full - fastest)
    value, spent = replayed(graph, plan(graph, milliseconds=limit), "lexicographic-minimax")
    assert spent <= limit * (1 + 1e-8)
    for other, other_spent in every:
        assert other_spent > limit * (1 - 1e-9) or other >= value, "a better one is allowed"
        assert not (other == value and other_spent < spent * (1 - 1e-9)), "as good, and faster"


@given(timed_graphs(), st.floats(0.0, 1.0), st.sampled_from([2.0**-20, 4.0]), OBJECTIVES)
@examples(60)
def test_the_unit_of_time_does_not_matter(graph: ErrorGraph, share: float, unit: float, objective: str) -> None:
    actions = graph.actions
    assert actions is not None
    full = graph.num_steps * actions.milliseconds["full"]
    limit = full * (0.999 + share)  # a full run fits or nearly fits, whatever else there is
    others = {name: value * unit for name, value in actions.milliseconds.items()}
    other_graph = graph.with_actions(replace(actions, milliseconds=others))
    found = []
    for each, at_most in ((graph, limit), (other_graph, limit * unit)):
        schedule = plan(each, milliseconds=max(at_most, _fastest(each)), objective=objective, power=2.0)
        found.append((schedule.compute_steps, schedule.partial, schedule.sparse))
    assert found[0] == found[1]


def _fastest(graph: ErrorGraph) -> float:
    return min(spent for _, spent in every_schedule(graph, "lexicographic-minimax"))


@given(timed_graphs())
@examples(60)
def test_every_limit_gives_a_point_of_one_front(graph: ErrorGraph) -> None:
    """As the limit rises, plans get better and never slower without being better."""
    spents = sorted({spent for _, spent in every_schedule(graph, "lexicographic-minimax")})
    points = [replayed(graph, plan(graph, milliseconds=limit), "lexicographic-minimax") for limit in spents]
    for (value, spent), (next_value, next_spent) in itertools.pairwise(points):
        assert next_value <= value
        assert next_spent == pytest.approx(spent) or next_value < value
