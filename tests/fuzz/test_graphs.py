"""`ErrorGraph`, its file and arguments, and what is planned on graphs that were accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.errors import DitAccelError, GraphError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.planner import plan, plan_all
from dit_accel.profiling.residual_model import ResidualModel
from dit_accel.profiling.step_actions import StepActions
from tests.conftest import examples

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, TREE_EDITS, Edit, broken, encoded
from .test_schedules import check as check_schedule
from .values import anything, make, make_all, of, same

NUM_STEPS, MOST_PLANNED = 6, 30
EDGES = {(i, j): float(j - i) / (i + 1) for i in range(NUM_STEPS) for j in range(i + 2, min(i + 4, NUM_STEPS))}


def model() -> ResidualModel:
    rows = np.array([[np.cos(0.3 * k), np.sin(0.3 * k), 0.1 * k] for k in range(NUM_STEPS)])
    return ResidualModel(tuple(float(k) - 3 for k in range(NUM_STEPS)), rows @ rows.T, (0.5,) * NUM_STEPS)


def graph() -> ErrorGraph:
    times = {"full": 8.0, "reuse": 1.0, "partial": 2.0, "sparse": 4.0}
    actions = StepActions(times, (1, 0), {(0, 2): 0.5}, {"top_p": 0.5}, {1: 0.1}, frozenset([(0, 2)]))
    return ErrorGraph(
        NUM_STEPS,
        EDGES,
        rollout_steps=9,
        provenance={"scheduler": {"class": "X", "shift": 3.0}, "name": "mine"},
        forecasts={(0, 2): "fitted", (1, 3): "taylor2", (0, 3): "scaled"},
        estimated=[(0, 3)],
        model=model(),
        actions=actions,
    )


SECOND = graph().to_json()
FIRST = json.dumps(
    {
        **{"schema": "dit_accel.error_graph", "version": 1, "num_steps": NUM_STEPS, "rollout_steps": 9},
        **{"provenance": {}, "edges": [[*edge, error] for edge, error in EDGES.items()]},
    }
)


def check(graph: ErrorGraph | None, path: Path) -> None:
    """It is read back as it is written, and whatever one asks of it is answered or refused."""
    if graph is None:
        return
    if outcome(lambda: graph.save(path) or True, kind=GraphError):
        again = outcome(lambda: ErrorGraph.load(path), kind=GraphError, says="nested deeper")
        assert again is None or again.to_json() == graph.to_json()
    if graph.num_steps > MOST_PLANNED:
        return
    asked: list[Callable[[], Any]] = [
        lambda: plan_all(graph).values(),
        lambda: plan_all(graph, objective="sum-power").values(),
        lambda: [plan(graph, speedup=1.5)],
        lambda: [plan(graph, milliseconds=30, objective="sum-power", power=2.0)],
        lambda: [plan(graph.resample(8), 4)],
        lambda: [plan(graph.resample(shift=2.0), 4)],
    ]
    for ask in asked:
        for schedule in outcome(ask) or ():
            check_schedule(schedule)


@given(st.sampled_from([FIRST, SECOND, SECOND, SECOND]), TREE_EDITS, TEXT_EDITS, NUMBERS)
@examples(600)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, edits: list[Edit], text_edits: list[Edit], choice: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.graph.json"
    path.write_bytes(encoded(broken(text, edits, text_edits if choice % 4 == 0 else []), choice))
    found = outcome(lambda: ErrorGraph.load(path), kind=GraphError, says=str(path))
    check(found, path.with_suffix(".again"))


FIELDS = {
    **{"rollout_steps": of(st.integers(0, 3)), "provenance": of(st.just({"a": [1]}))},
    **{"forecasts": of(st.just({(0, 2): "hold"})), "estimated": of(st.just([(0, 2)]))},
    **{"model": of(st.none()), "actions": of(st.none())},
}


@given(
    of(st.integers(2, 8)),
    of(st.sampled_from([(0, 2), (1, 3), (0, 1), (2, 2), (3, 1), (0, 2, 1)])),
    of(st.floats(0, 3)),
    st.fixed_dictionaries({}, optional=FIELDS),
)
@examples(450)
def test_any_arguments_are_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, num_steps: str, edge: str, error: str, others: dict[str, str]
) -> None:
    values: dict[str, Any] = {"num_steps": make(num_steps), "edges": {}, **make_all(others)}
    with suppress(TypeError, RuntimeError):  # not hashable
        values["edges"] = {make(edge): make(error)}
    before = same(values)
    found = outcome(lambda: ErrorGraph(**values), kind=GraphError)
    assert same(values) == before
    check(found, tmp_path_factory.getbasetemp() / "made.graph.json")


@given(
    st.fixed_dictionaries(
        {"full": of(st.integers(1, 9)), "reuse": of(st.just(1))},
        optional={name: of(st.integers(1, 9)) for name in ("partial", "sparse", "x")},
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "partial_blocks": of(st.just((1, 0))),
            "partial_errors": of(st.just({(0, 2): 1.0})),
            "sparse_config": of(st.just({})),
            "sparse_errors": of(st.just({1: 0.5})),
            "estimated_partial": of(st.just(frozenset([(0, 2)]))),
        },
    ),
    st.sampled_from(["times"] * 7) | anything(),
)
@examples(300)
def test_any_actions_are_taken_or_refused(times: dict[str, str], others: dict[str, str], instead: str) -> None:
    values = {"milliseconds": make_all(times) if instead == "times" else make(instead), **make_all(others)}
    actions = outcome(lambda: StepActions(**values), kind=GraphError)
    if actions is not None:
        outcome(lambda: ErrorGraph(NUM_STEPS, EDGES, actions=actions), kind=GraphError)


LIMITS = ("budget", "milliseconds", "speedup")
OBJECTIVES = of(st.sampled_from(["lexicographic-minimax", "sum-power", "minimax"]))


@given(
    st.dictionaries(st.sampled_from(LIMITS), of(st.integers(1, 20)), min_size=1, max_size=2),
    st.fixed_dictionaries({}, optional={"objective": OBJECTIVES, "power": of(st.floats(0.1, 9))}),
)
@examples(450)
def test_any_options_of_plan_are_taken_or_refused(limits: dict[str, str], options: dict[str, str]) -> None:
    values = make_all({**limits, **options})
    schedule = outcome(lambda: plan(GRAPH, **values), kind=GraphError)
    check_schedule(schedule)
    assert schedule is None or values.get("budget") in (None, schedule.budget)


@given(st.fixed_dictionaries({}, optional={"num_steps": of(st.integers(3, 12)), "shift": of(st.floats(0.5, 8))}))
@examples(150)
def test_any_grid_is_resampled_or_refused(options: dict[str, str]) -> None:
    values = make_all(options)
    found = outcome(lambda: GRAPH.resample(**values), kind=DitAccelError)
    assert found is None or found.num_steps == values.get("num_steps", NUM_STEPS) or values["num_steps"] is None


GRAPH = graph()
