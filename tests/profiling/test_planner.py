"""`plan`: exact against every path there is, ties included, and clear about what no path can do."""

from __future__ import annotations

import itertools
import math
import random
import time
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.errors import GraphError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.planner import plan, plan_all

Path = tuple[int, ...]


def random_graph(rng: random.Random) -> ErrorGraph:
    """4 to 8 steps, some edges missing, errors from a few values so that ties are common."""
    num_steps = rng.randint(4, 8)
    values = rng.choice([[0.0, 1.0], [1.0, 2.0, 3.0], [0.5, 1.0, 1.5, 2.0]])
    longer = [(i, j) for i in range(num_steps) for j in range(i + 2, num_steps)]
    kept = [edge for edge in longer if rng.random() < 0.8]
    return ErrorGraph(num_steps, {edge: rng.choice(values) for edge in kept})


def errors_of(graph: ErrorGraph, path: Path) -> list[float]:
    found = [graph.error(i, j) for i, j in itertools.pairwise(path)]
    assert None not in found, f"{path} uses an edge that is not in the graph"
    return [error for error in found if error is not None]


def every_path(graph: ErrorGraph) -> list[Path]:
    """All paths from the first step to the last, by choosing subsets: nothing here is shared with the planner."""
    last, paths = graph.num_steps - 1, []
    for size in range(graph.num_steps - 1):
        for inner in itertools.combinations(range(1, last), size):
            path = (0, *inner, last)
            if all(graph.error(i, j) is not None for i, j in itertools.pairwise(path)):
                paths.append(path)
    return paths


def lexicographic(graph: ErrorGraph, path: Path) -> list[float]:
    return sorted(errors_of(graph, path), reverse=True)


def power_sum(graph: ErrorGraph, path: Path, power: float) -> float:
    return math.fsum(error**power for error in errors_of(graph, path))


def best_by_budget(paths: list[Path], value: Any) -> dict[int, Any]:
    budgets = {len(path) for path in paths}
    return {budget: min(value(path) for path in paths if len(path) == budget) for budget in budgets}


def test_lexicographic_minimax_by_hand() -> None:
    # Both two-edge paths have the worst error 2; the second largest decides for (0, 2, 3).
    edges = {(0, 1): 0.0, (1, 3): 2.0, (0, 2): 2.0, (0, 3): 9.0}
    assert plan(ErrorGraph(4, {**edges, (2, 3): 0.0}), 3).compute_steps == (0, 1, 3)  # a tie: earliest predecessor
    graph = ErrorGraph(5, {(0, 2): 2.0, (2, 4): 1.0, (1, 4): 2.0, (0, 3): 2.0, (0, 4): 9.0})
    assert plan(graph, 3).compute_steps == (0, 1, 4)  # errors 0 and 2, against 2 and 1
    assert plan(graph, 2).compute_steps == (0, 4)


def test_lexicographic_goes_beyond_the_largest() -> None:
    graph = ErrorGraph(7, {(0, 3): 5.0, (3, 5): 4.0, (3, 6): 4.0, (0, 2): 5.0, (2, 6): 3.0})
    assert plan(graph, 3).compute_steps == (0, 2, 6)  # (5, 3) beats (5, 4): a plain minimax could take either


def test_exact_on_random_graphs_with_ties() -> None:
    rng = random.Random(0)
    ties = 0
    for _ in range(400):
        graph = random_graph(rng)
        paths = every_path(graph)
        best = best_by_budget(paths, lambda path: lexicographic(graph, path))  # noqa: B023
        planned = plan_all(graph)
        assert {b: lexicographic(graph, s.compute_steps) for b, s in planned.items()} == best
        assert all(schedule.budget == budget for budget, schedule in planned.items())
        ties += sum(
            sum(lexicographic(graph, path) == best[budget] for path in paths if len(path) == budget) > 1
            for budget in best
        )
    assert ties > 400  # the graphs do test ties


@pytest.mark.parametrize("power", [1, 2.0, 0.5, 4.0])
def test_sum_power_is_optimal_on_random_graphs(power: float) -> None:
    rng = random.Random(1)
    for _ in range(100):
        graph = random_graph(rng)
        best = best_by_budget(every_path(graph), lambda path: power_sum(graph, path, power))  # noqa: B023
        planned = plan_all(graph, objective="sum-power", power=power)
        assert set(planned) == set(best)
        for budget, schedule in planned.items():
            assert power_sum(graph, schedule.compute_steps, power) == pytest.approx(best[budget], rel=1e-12)


@pytest.mark.parametrize("scale", [1e300, 1e-70, 1.0])
def test_sum_power_neither_overflows_nor_depends_on_the_unit(scale: float) -> None:
    edges = {(0, 2): 3.0, (2, 4): 1.0, (1, 4): 4.0, (0, 3): 3.5}
    graph = ErrorGraph(5, {edge: error * scale for edge, error in edges.items()})
    assert plan(graph, 3, objective="sum-power", power=4.0).compute_steps == (0, 2, 4)  # 82, against 256 and 150


def test_the_objectives_differ_where_they_should() -> None:
    graph = ErrorGraph(5, {(0, 2): 3.0, (2, 4): 3.0, (0, 3): 4.0})
    assert plan(graph, 3).compute_steps == (0, 2, 4)
    assert plan(graph, 3, objective="sum-power", power=1).compute_steps == (0, 3, 4)


def test_agrees_with_networkx() -> None:
    rng = random.Random(2)
    for _ in range(10):
        graph = random_graph(rng)
        view = graph.to_networkx()
        paths = [tuple(path) for path in networkx.all_simple_paths(view, 0, graph.num_steps - 1)]
        assert sorted(paths) == sorted(every_path(graph))
        best = best_by_budget(
            paths,
            lambda path: sorted((view.edges[edge]["error"] for edge in itertools.pairwise(path)), reverse=True),  # noqa: B023
        )
        assert {b: lexicographic(graph, s.compute_steps) for b, s in plan_all(graph).items()} == best


GRAPHS = st.integers(3, 9).flatmap(
    lambda n: st.builds(
        ErrorGraph,
        st.just(n),
        st.dictionaries(
            st.sampled_from([(i, j) for i in range(n) for j in range(i + 2, n)]),
            st.floats(0, 1e9) | st.sampled_from([0.0, 1.0, 2.0]),
        ),
    )
)


@given(GRAPHS)
@settings(deadline=None, max_examples=200)
def test_properties(graph: ErrorGraph) -> None:
    planned = plan_all(graph)
    assert graph.plan_all() == planned
    assert planned[graph.num_steps].compute_steps == tuple(range(graph.num_steps))
    for budget, schedule in planned.items():
        steps = schedule.compute_steps
        assert len(steps) == budget and steps[0] == 0 and steps[-1] == graph.num_steps - 1
        assert plan(graph, budget) == schedule
        assert lexicographic(graph, steps) == min(
            lexicographic(graph, path) for path in every_path(graph) if len(path) == budget
        )


@given(GRAPHS, st.randoms())
@settings(deadline=None, max_examples=50)
def test_plans_do_not_depend_on_the_order_of_the_edges(graph: ErrorGraph, rng: random.Random) -> None:
    items = list(graph.edges.items())
    rng.shuffle(items)
    assert plan_all(ErrorGraph(graph.num_steps, dict(items))) == plan_all(graph)


def test_ties_go_to_the_earliest_predecessor() -> None:
    graph = ErrorGraph(6, {(i, j): 1.0 for i in range(6) for j in range(i + 2, 6)})
    assert plan(graph, 2).compute_steps == (0, 5)
    assert plan(graph, 3).compute_steps == (0, 1, 5)
    assert plan(graph, 4).compute_steps == (0, 1, 2, 5)


def test_provenance() -> None:
    graph = ErrorGraph(4, {(0, 2): 1.0}, provenance={"model": {"id": "m"}, "budget": "of old"})
    assert plan(graph, 3).provenance == {
        "model": {"id": "m"},
        "name": "plan-3",
        "budget": 3,
        "objective": "lexicographic-minimax",
    }
    assert plan(graph, 3, objective="sum-power", power=2.0).provenance["power"] == 2.0


@pytest.mark.parametrize("budget", [-1, 0, 1, 3, 11, True, 4.0, "4", [4], pytest.param(10**5000, id="huge")])
def test_infeasible_budgets_name_the_feasible(budget: Any) -> None:
    graph = ErrorGraph(10, {(i, j): 1.0 for i in range(10) for j in range(i + 2, min(i + 4, 10))})  # cap 3
    with pytest.raises(GraphError, match="Feasible budgets: 4 to 10") as caught:
        plan(graph, budget)
    assert ("larger max_segment" in str(caught.value)) == (budget == 3)


def test_gaps_between_feasible_budgets_are_told() -> None:
    graph = ErrorGraph(10, {(0, 9): 1.0, (0, 6): 1.0})
    assert sorted(plan_all(graph)) == [2, 5, 10]
    with pytest.raises(GraphError, match=r"No path of 7 full steps .* Feasible budgets: 2, 5, 10\."):
        plan(graph, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "minimax"}, "objective='minimax' is not allowed. Use one of: lexicographic-minimax, sum-power"),
        ({"objective": "sum-power", "power": 0}, "power must be a finite number above 0, got 0"),
        ({"objective": "sum-power", "power": float("nan")}, "got nan"),
        ({"objective": "sum-power", "power": float("inf")}, "got inf"),
        ({"objective": "sum-power", "power": True}, "got True"),
        ({"objective": "sum-power", "power": 10**400}, "power must be a finite number"),
        ({"objective": "sum-power", "power": "4"}, "got '4'"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(GraphError, match=words):
        plan(ErrorGraph(4, {(0, 2): 1.0}), 3, **options)


def test_fifty_steps_are_solved_in_no_time() -> None:
    rng = random.Random(3)
    graph = ErrorGraph(50, {(i, j): rng.random() for i in range(50) for j in range(i + 2, min(i + 9, 50))})
    for objective in ("lexicographic-minimax", "sum-power"):
        start = time.process_time()
        planned = plan_all(graph, objective=objective)
        assert time.process_time() - start < 2
        assert sorted(planned) == list(range(8, 51))
