"""`StepActions`: what is refused, and that nothing is lost on the way through JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dit_accel.errors import GraphError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.step_actions import StepActions

TIMES = {"full": 10.0, "reuse": 1.5, "partial": 3, "sparse": 7.25}
ACTIONS = StepActions(
    TIMES,
    (1, 2),
    {(0, 2): 0.1, (1, 4): 1 / 3},
    {"top_p": 0.5, "backend": "torch"},
    {0: 0.0, 3: 1e-300},
    estimated_partial=frozenset({(1, 4)}),
    estimated_sparse=frozenset({0}),
)


@pytest.mark.parametrize(
    ("milliseconds", "partial", "sparse", "wanted"),
    [
        ({}, {}, {}, "full, reuse"),
        ({"full": 1.0}, {}, {}, "full, reuse"),
        ({"full": 1.0, "reuse": 0.0}, {}, {}, "full, reuse"),
        ({"full": -1.0, "reuse": 1.0}, {}, {}, "full, reuse"),
        ({"full": math.inf, "reuse": 1.0}, {}, {}, "full, reuse"),
        ({"full": math.nan, "reuse": 1.0}, {}, {}, "full, reuse"),
        ({"full": True, "reuse": 1.0}, {}, {}, "full, reuse"),
        ({"full": "1", "reuse": 1.0}, {}, {}, "full, reuse"),
        ({"full": 1.0, "reuse": 1.0, "fast": 1.0}, {}, {}, "full, reuse"),
        ({"full": 1.0, "reuse": 1.0, "sparse": 1.0}, {(0, 2): 1.0}, {}, "full, partial, reuse"),
        ({"full": 1.0, "reuse": 1.0, "partial": 1.0}, {}, {1: 1.0}, "full, reuse, sparse"),
        ({"full": 1.0, "reuse": 1.0}, {(0, 2): 1.0}, {1: 1.0}, "full, partial, reuse, sparse"),
    ],
)
def test_bad_times(milliseconds: Any, partial: Any, sparse: Any, wanted: str) -> None:
    with pytest.raises(GraphError, match=f"milliseconds must give positive numbers for {wanted}, got "):
        StepActions(milliseconds, (1, 0), partial, {}, sparse)


@pytest.mark.parametrize("error", [-1.0, math.nan, math.inf, True, "1", None])
def test_bad_errors(error: Any) -> None:
    for errors in ({"partial_errors": {(0, 2): error}}, {"sparse_errors": {0: error}}):
        with pytest.raises(GraphError, match="must be finite numbers of at least 0"):
            StepActions(TIMES, (1, 0), sparse_config={}, **errors)


def test_errors_need_what_they_are_of() -> None:
    with pytest.raises(GraphError, match="Errors of partial steps need partial_blocks"):
        StepActions(TIMES, None, {(0, 2): 1.0})
    with pytest.raises(GraphError, match="those of sparse steps sparse_config"):
        StepActions(TIMES, (1, 0), sparse_errors={0: 1.0})


def test_times_alone_are_enough() -> None:
    bare = StepActions({"full": 10, "reuse": 1})
    assert StepActions.from_json(json.loads(json.dumps(bare.to_json()))) == bare


def test_json_round_trip() -> None:
    assert StepActions.from_json(json.loads(json.dumps(ACTIONS.to_json(), allow_nan=False))) == ACTIONS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"milliseconds": None}, "actions must be null or have the keys"),
        ({"milliseconds": [1.0]}, "actions must be null or have the keys"),
        ({"milliseconds": {"full": 1.0}}, "milliseconds must give positive numbers"),
        ({"milliseconds": {**TIMES, "reuse": "1"}}, "milliseconds must give positive numbers"),
        ({"more": 1}, "actions must be null or have the keys"),
        ({"partial_blocks": [1]}, "partial_blocks must be two integers or null"),
        ({"partial_blocks": [1, 2, 3]}, "partial_blocks must be two integers or null"),
        ({"partial_blocks": [1, 2.0]}, "partial_blocks must be two integers or null"),
        ({"partial_blocks": [True, 0]}, "partial_blocks must be two integers or null"),
        ({"partial_blocks": "12"}, "partial_blocks must be two integers or null"),
        ({"partial_blocks": None}, "need partial_blocks"),
        ({"sparse_config": [1]}, "sparse_config an object or null"),
        ({"sparse_config": None}, "sparse_config"),
        ({"partial_errors": {}}, "must be lists of steps"),
        ({"partial_errors": [[0, 2, 1.0]]}, "must be lists of steps"),
        ({"partial_errors": [[0, 2, 1.0, 1]]}, "must be lists of steps"),
        ({"partial_errors": [[0, 2.0, 1.0, False]]}, "must be lists of steps"),
        ({"partial_errors": [[False, 2, 1.0, False]]}, "must be lists of steps"),
        ({"partial_errors": [[0, 2, "1", False]]}, "must be finite numbers"),
        ({"partial_errors": [[0, 2, [], False]]}, "must be finite numbers"),
        ({"sparse_errors": [[0, 1, 1.0, True]]}, "must be lists of steps"),
        ({"sparse_errors": [7]}, "must be lists of steps"),
        ({"sparse_errors": [[0, -1.0, True]]}, "must be finite numbers"),
        ({"sparse_errors": None}, "must be lists of steps"),
    ],
)
def test_bad_json(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GraphError, match=words) as caught:
        StepActions.from_json({**ACTIONS.to_json(), **changes})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [[], "x", 1, {}, {"milliseconds": TIMES}])
def test_what_is_no_actions(value: Any) -> None:
    with pytest.raises(GraphError, match="actions must be null or have the keys"):
        StepActions.from_json(value)


# In a graph


def test_a_graph_keeps_its_actions(tmp_path: Path) -> None:
    bare = ErrorGraph(5, {(0, 2): 1.0, (1, 4): 2.0}, rollout_steps=7, provenance={"model": "mine"}, estimated=[(1, 4)])
    graph = bare.with_actions(ACTIONS)
    assert bare.actions is None and graph.actions is ACTIONS and graph != bare
    assert (graph.edges, graph.rollout_steps, graph.provenance) == (bare.edges, 7, {"model": "mine"})
    assert graph.estimated == {(1, 4)}
    graph.save(tmp_path / "graph.json")
    loaded = ErrorGraph.load(tmp_path / "graph.json")
    assert loaded == graph and loaded.actions == ACTIONS
    loaded.with_actions(StepActions(TIMES)).save(tmp_path / "other.json")
    assert ErrorGraph.load(tmp_path / "other.json").actions == StepActions(TIMES)


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ({}, "actions must be null or have the keys"),
        ({**ACTIONS.to_json(), "milliseconds": {}}, "milliseconds must give positive numbers"),
    ],
)
def test_a_file_with_bad_actions(tmp_path: Path, actions: Any, words: str) -> None:
    path = tmp_path / "graph.json"
    document = json.loads(ErrorGraph(5, {(0, 2): 1.0}).to_json())
    path.write_text(json.dumps({**document, "actions": actions}))
    with pytest.raises(GraphError, match=words) as caught:
        ErrorGraph.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"partial_errors": [[0, 7, 1.0, False]]},
        {"partial_errors": [[3, 1, 1.0, False]]},
        {"partial_errors": [[-1, 2, 1.0, False]]},
        {"sparse_errors": [[5, 1.0, False]]},
        {"sparse_errors": [[-1, 1.0, False]]},
    ],
)
def test_steps_that_the_graph_does_not_have(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "graph.json"
    document = json.loads(ErrorGraph(5, {(0, 2): 1.0}).to_json())
    path.write_text(json.dumps({**document, "actions": {**ACTIONS.to_json(), **changes}}))
    with pytest.raises(GraphError, match="5"):
        ErrorGraph.load(path)


@pytest.mark.parametrize("blocks", [[-1, 2], [0, 0]])
def test_blocks_that_no_partial_step_has(blocks: list[int]) -> None:
    with pytest.raises(GraphError, match="partial_blocks"):
        StepActions.from_json({**ACTIONS.to_json(), "partial_blocks": blocks})
