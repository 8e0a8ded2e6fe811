"""`ErrorGraph`: what it accepts, how it is stored, and its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.errors import GraphError, MissingPackageError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.schedule import CacheSchedule

EDGES = {(0, 2): 0.1, (1, 3): 1 / 3, (0, 3): 5e-324, (2, 4): 1e308}


def document(**changes: Any) -> str:
    """A valid graph file with some keys replaced; ``None`` as a value takes the key out."""
    valid = {"schema": "dit_accel.error_graph", "version": 1, "num_steps": 5, "rollout_steps": 7, "provenance": {}}
    merged = {**valid, "edges": [[0, 2, 0.5]], **changes}
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def test_construction() -> None:
    graph = ErrorGraph(5, EDGES, rollout_steps=9, provenance={"x": 1})
    assert (graph.num_steps, graph.edges, graph.rollout_steps, graph.provenance) == (5, EDGES, 9, {"x": 1})
    assert graph.error(0, 2) == 0.1
    assert graph.error(3, 4) == 0.0  # never given, always there
    assert graph.error(1, 4) is None
    assert (
        ErrorGraph(3, {(0, 2): 1}).edges == {(0, 2): 1.0}
        and repr(graph) == "ErrorGraph(num_steps=5, 4 edges, rollout_steps=9)"
    )


@pytest.mark.parametrize(
    ("num_steps", "edges", "words"),
    [
        (1, {}, "num_steps must be an integer from 2 to 10000, got 1"),
        (True, {}, "got True"),
        (5.0, {}, "got 5.0"),
        pytest.param(10**5000, {}, "too large to show", id="huge num_steps"),
        (5, {(0, 2): float("nan")}, r"\(0, 2\) must be a finite number of at least 0, got nan"),
        (5, {(0, 2): float("inf")}, "got inf"),
        (5, {(0, 2): 10**400}, "must be a finite number"),
        (5, {(0, 2): -1e-300}, "got -1e-300"),
        (5, {(0, 2): True}, "got True"),
        (5, {(0, 2): "1"}, "got '1'"),
        (5, {(0, 2): None}, "got None"),
        (5, {(0, 5): 1.0}, r"\(0, 5\) is not within 0 <= i < j < num_steps=5"),
        (5, {(-1, 2): 1.0}, r"\(-1, 2\) is not within"),
        (5, {(2, 2): 0.0}, r"\(2, 2\) is not within"),
        (5, {(3, 1): 1.0}, r"\(3, 1\) is not within"),
        (5, {(0.0, 2): 1.0}, r"\(0.0, 2\) is not within"),
        (5, {(False, 2): 1.0}, r"\(False, 2\) is not within"),
        (5, {(0, 1, 2): 1.0}, r"\(0, 1, 2\) is not within"),
        (5, {3: 1.0}, "Edge 3 is not within"),
        (5, [(0, 2, 1.0)], "edges must map"),
        (5, {(1, 2): 0.5}, r"\(1, 2\) has length 1 and reuses nothing; its error is 0, got 0.5"),
    ],
)
def test_invalid_graphs_are_refused(num_steps: Any, edges: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        ErrorGraph(num_steps, edges)


@pytest.mark.parametrize("steps", [-1, True, 1.5, None])
def test_invalid_rollout_steps_are_refused(steps: Any) -> None:
    with pytest.raises(GraphError, match="rollout_steps must be an integer of at least 0"):
        ErrorGraph(5, {}, rollout_steps=steps)


def test_invalid_provenance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="provenance must be a JSON object"):
        ErrorGraph(5, {}, provenance=[("a", 1)])
    with pytest.raises(GraphError, match="holds a value that JSON cannot"):
        ErrorGraph(5, {}, provenance={"x": object()}).save(tmp_path / "g.json")
    assert list(tmp_path.iterdir()) == []


def test_equality() -> None:
    graph = ErrorGraph(5, EDGES, provenance={"a": 1, "b": (2, 3)})
    assert graph == ErrorGraph(5, dict(reversed(EDGES.items())), provenance={"b": [2, 3], "a": 1})
    others = [
        ErrorGraph(6, EDGES, provenance=graph.provenance),
        ErrorGraph(5, {**EDGES, (0, 2): 0.1 + 2e-17}, provenance=graph.provenance),
        ErrorGraph(5, EDGES),
        ErrorGraph(5, EDGES, provenance=graph.provenance, rollout_steps=1),
    ]
    assert [graph == other for other in others] == [False, False, False, False]
    assert graph != "graph"


def test_networkx_view() -> None:
    view = ErrorGraph(5, EDGES).to_networkx()
    assert networkx.is_directed_acyclic_graph(view)
    assert sorted(view.nodes) == [0, 1, 2, 3, 4]
    unit = {(i, i + 1): 0.0 for i in range(4)}
    assert {(i, j): data for i, j, data in view.edges(data="error")} == {**EDGES, **unit}


# The file


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 30), st.integers(2, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])),
        st.floats(min_value=0, allow_infinity=False),
    )
)
@settings(deadline=None, max_examples=100)
def test_floats_survive_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, edges: dict[tuple[int, int], float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    graph = ErrorGraph(50, edges, rollout_steps=3, provenance={"x": [1, None]})
    graph.save(path)
    loaded = ErrorGraph.load(path)
    assert loaded == graph
    assert {edge: error.hex() for edge, error in loaded.edges.items()} == {e: x.hex() for e, x in edges.items()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        (document(edges=[[0, 2, float("nan")]]), "NaN is not a JSON number"),
        (document(edges=[[0, 2, 7]]).replace("2, 7", "2, 1e999"), "1e999 is too large"),
        (document(schema="dit_accel.cache_schedule"), "is not a dit_accel.error_graph file"),
        (document(version=3), "schema version 3"),
        (document(provenance=None), r"missing keys \['provenance'\]"),
        (document(more=1), r"unknown keys \['more'\]"),
        (document(edges={"0": 1}), r"edges must be a list of \[i, j, error\]"),
        (document(edges=[[0, 2]]), r"edges must be a list of \[i, j, error\]"),
        (document(edges=[[0, [2], 1.0]]), "is not within"),
        (document(edges=[[0, 2, 10**400]]), "an integer of 401 digits"),
        (document(edges=[[0, 2, "x"]]), "must be a finite number"),
        (document(edges=[[0, 2, 1.0], [0, 2, 2.0]]), r"\(0, 2\) is given twice"),
        (document(edges=[[0, 2, 1.0], [0.0, 2, 2.0]]), r"\(0.0, 2\) is not within"),
        (document(num_steps="5"), "num_steps='5'"),
        (document(num_steps="5", edges=[]), "num_steps must be an integer"),
        (document(rollout_steps=1.0), "rollout_steps must be an integer"),
        (document(rollout_steps=-1), "rollout_steps must be an integer"),
        (document(provenance=[]), "provenance must be a JSON object"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GraphError, match=words) as caught:
        ErrorGraph.load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_unusable_paths(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="There is no error graph file"):
        ErrorGraph.load(tmp_path / "absent.json")
    with pytest.raises(GraphError, match="is a directory"):
        ErrorGraph.load(tmp_path)
    with pytest.raises(GraphError, match="The error graph cannot be written to"):
        ErrorGraph(5, EDGES).save(tmp_path / "no" / "g.json")


# The picture


def test_plot_writes_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    graph = ErrorGraph(5, {(0, 2): 0.1, (1, 3): 0.3, (0, 3): 0.0})
    graph.plot(tmp_path / "plain.png")
    graph.plot(tmp_path / "path.png", {"mine": CacheSchedule(5, (0, 2, 3, 4))})
    for name in ("plain.png", "path.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "path.png").read_bytes()
    ErrorGraph(5, {(0, 2): 0.1}).plot(tmp_path / "one.png")  # a colour scale of a single value


def test_plots_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(GraphError, match="no edge with a positive error"):
        ErrorGraph(5, {(0, 2): 0.0}).plot(tmp_path / "x.png")
    for path in (tmp_path / "no" / "x.png", tmp_path / "x.unknown"):
        with pytest.raises(GraphError, match="The plot cannot be written to"):
            ErrorGraph(5, {(0, 2): 0.1}).plot(path)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"pip install \"dit-accel\[plot\]\""):
        ErrorGraph(5, {(0, 2): 0.1}).plot(tmp_path / "x.png")
