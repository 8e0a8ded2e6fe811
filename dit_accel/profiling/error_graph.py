"""`ErrorGraph`: the DAG over denoising steps whose edges say what a stretch of reuse costs the final video."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import is_number, parse_document, quoted, read_json_file, save_file
from ..errors import GraphError
from ..schedule import MAX_STEPS, CacheSchedule
from .residual_model import FORECASTS, ResidualModel
from .step_actions import StepActions, is_pair

if TYPE_CHECKING:
    import networkx

Edge = tuple[int, int]

SCHEMA = "dit_accel.error_graph"
VERSION = 2
MAX_FILE_BYTES = 64 << 20
_KEYS = ("num_steps", "edges", "rollout_steps", "provenance")
_KEYS_OF = {1: _KEYS, VERSION: (*_KEYS, "model", "actions")}


class ErrorGraph:
    """Nodes are the steps ``0 … num_steps−1``; edge i→j is the error of the final sample when i+1 … j−1 reuse step i.

    Args:
        num_steps: model steps of a trajectory, 2 to 10,000.
        edges: (i, j) -> error, finite and not negative, with ``0 <= i < j < num_steps``. Edges of length 1 reuse
            nothing: they always exist, with error 0, and need not be given.
        rollout_steps: full denoiser steps that measuring cost, summed over all videos.
        provenance: where the numbers come from; plain JSON values.
        forecasts: edge -> the forecast that its error is of, where that is not ``"hold"``. Needs the model.
        estimated: edges whose error was not measured.
        model: what the recorded trajectories tell: weights of forecasts, estimates, other step counts.
        actions: step times, and what else a step can do; for plans under a time limit.

    Raises:
        GraphError: an edge or a number is out of range.

    Paper: LeMiCa's DAG; an edge is the "global outcome-aware error" L1_glob(i→j), Eq. 4.
    """

    def __init__(
        self,
        num_steps: int,
        edges: Mapping[Edge, float],
        *,
        rollout_steps: int = 0,
        provenance: Mapping[str, Any] | None = None,
        forecasts: Mapping[Edge, str] | None = None,
        estimated: Iterable[Edge] = (),
        model: ResidualModel | None = None,
        actions: StepActions | None = None,
    ) -> None:
        if type(num_steps) is not int or not 2 <= num_steps <= MAX_STEPS:
            raise GraphError(f"num_steps must be an integer from 2 to {MAX_STEPS}, got {quoted(num_steps)}.")
        if not isinstance(edges, Mapping):
            raise GraphError(f"edges must map (i, j) to an error, got {quoted(edges)}.")
        for edge, error in edges.items():
            _check_edge(num_steps, edge, error)
        if type(rollout_steps) is not int or rollout_steps < 0:
            raise GraphError(f"rollout_steps must be an integer of at least 0, got {quoted(rollout_steps)}.")
        if not isinstance(provenance, (Mapping, type(None))):
            raise GraphError(f"provenance must be a JSON object, got {quoted(provenance)}.")
        _check_kinds(forecasts, estimated, model, actions)
        self.num_steps = num_steps
        self.edges: dict[Edge, float] = {edge: float(error) for edge, error in edges.items()}
        self.rollout_steps = rollout_steps
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.forecasts: dict[Edge, str] = {e: name for e, name in (forecasts or {}).items() if name != "hold"}
        self.estimated = frozenset(estimated)
        self.model, self.actions = model, actions
        _check_extras(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ErrorGraph):
            return NotImplemented
        # As JSON, so that a loaded graph equals the saved one; parsed, so that the order of keys does not count.
        return bool(json.loads(self.to_json()) == json.loads(other.to_json()))

    __hash__ = None  # type: ignore[assignment]  # edges may be edited

    def __repr__(self) -> str:
        estimated = f", {len(self.estimated)} of them estimated" if self.estimated else ""
        return (
            f"ErrorGraph(num_steps={self.num_steps}, {len(self.edges)} edges{estimated}, "
            f"rollout_steps={self.rollout_steps})"
        )

    def error(self, start: int, stop: int) -> float | None:
        """The error of edge ``start``→``stop``: 0 for length 1, None if it was not measured."""
        return self.edges.get((start, stop), 0.0 if stop == start + 1 else None)

    def with_actions(self, actions: StepActions) -> ErrorGraph:
        """The same graph with other step times and actions."""
        return ErrorGraph(
            self.num_steps,
            self.edges,
            rollout_steps=self.rollout_steps,
            provenance=self.provenance,
            forecasts=self.forecasts,
            estimated=self.estimated,
            model=self.model,
            actions=actions,
        )

    def resample(self, num_steps: int | None = None, *, shift: float | None = None) -> ErrorGraph:
        """The graph of runs with another number of steps or another shift of the noise levels, all of it estimated.

        Residuals are interpolated in model time, and gains as a density of the noise level. The new grid is spaced as
        the old one is, which holds for the schedulers of flow matching.

        Args:
            num_steps: model steps, at least 3; None: as many as before.
            shift: ``flow_shift`` or ``shift`` of the scheduler, above 0; None: as before.

        Raises:
            GraphError: the graph has no model with gains, or an argument is out of range.
        """
        from .resample import resample

        return resample(self, num_steps, shift)

    def plan_all(self, *, objective: str = "lexicographic-minimax", power: float = 4.0) -> dict[int, CacheSchedule]:
        """The optimal schedule of every feasible budget, in one solve; see `dit_accel.plan`."""
        from .planner import plan_all

        return plan_all(self, objective=objective, power=power)

    def to_networkx(self) -> networkx.DiGraph[int]:
        """A ``networkx.DiGraph`` with the edge attribute ``error``; edges of length 1 included."""
        import networkx

        graph: networkx.DiGraph[int] = networkx.DiGraph()
        graph.add_weighted_edges_from(((i, i + 1, 0.0) for i in range(self.num_steps - 1)), weight="error")
        graph.add_weighted_edges_from(((i, j, error) for (i, j), error in self.edges.items()), weight="error")
        return graph

    def to_json(self) -> str:
        """The JSON form, schema v2; floats survive exactly. An edge is [i, j, error, forecast, is it estimated]."""
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "num_steps": self.num_steps,
            "rollout_steps": self.rollout_steps,
            "provenance": self.provenance,
            "edges": [
                [*edge, error, self.forecasts.get(edge, "hold"), edge in self.estimated]
                for edge, error in sorted(self.edges.items())
            ],
            "model": None if self.model is None else self.model.to_json(),
            "actions": None if self.actions is None else self.actions.to_json(),
        }
        try:
            return json.dumps(document, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise GraphError(f"The graph holds a value that JSON cannot: {error}.") from None

    def save(self, path: str | Path) -> None:
        """Write the graph atomically.

        Raises:
            GraphError: the file cannot be written, or the provenance holds what JSON cannot.
        """
        save_file(Path(path), self.to_json(), GraphError, "error graph")

    @classmethod
    def load(cls, path: str | Path) -> ErrorGraph:
        """Read a graph file.

        Raises:
            GraphError: missing, over 64 MiB, not JSON, of another kind or version, or with invalid edges.
        """
        text = read_json_file(Path(path), MAX_FILE_BYTES, GraphError, "error graph")
        document = parse_document(text, SCHEMA, _KEYS_OF, GraphError, str(path))
        try:
            edges, forecasts, estimated = _parsed_edges(document["num_steps"], document["edges"], document["version"])
            model, actions = document.get("model"), document.get("actions")
            return cls(
                document["num_steps"],
                edges,
                rollout_steps=document["rollout_steps"],
                provenance=document["provenance"],
                forecasts=forecasts,
                estimated=estimated,
                model=None if model is None else ResidualModel.from_json(model),
                actions=None if actions is None else StepActions.from_json(actions),
            )
        except GraphError as problem:
            raise GraphError(f"{path}: {problem}") from None

    def plot(
        self,
        path: str | Path,
        schedules: Mapping[str, CacheSchedule] | None = None,
        measured: Mapping[int, float] | None = None,
    ) -> None:
        """Write a heat map of the edges (log scale), and beside it the error of every budget's best path.

        Args:
            path: of the picture.
            schedules: label -> schedule whose path is drawn on the map.
            measured: budget -> error of whole runs, to be shown beside the predicted one.

        Raises:
            MissingPackageError: matplotlib is not installed.
            GraphError: there is nothing to plot, or the picture cannot be written.
        """
        from .graph_plot import plot_graph

        plot_graph(self, path, schedules or {}, measured or {})


def _parsed_edges(num_steps: Any, rows: Any, version: int) -> tuple[dict[Edge, float], dict[Edge, str], list[Edge]]:
    """Errors, forecasts and estimated edges of the rows of a file."""
    width, form = (3, "[i, j, error]") if version == 1 else (5, "[i, j, error, forecast, is estimated]")
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != width for row in rows):
        raise GraphError(f"edges must be a list of {form}.")
    edges: dict[Edge, float] = {}
    forecasts: dict[Edge, str] = {}
    estimated: list[Edge] = []
    for i, j, error, *more in rows:
        _check_edge(num_steps, (i, j), error)
        if (i, j) in edges:
            raise GraphError(f"Edge ({i}, {j}) is given twice.")
        edges[i, j] = error
        forecast, is_estimated = more or ("hold", False)
        if not isinstance(forecast, str) or type(is_estimated) is not bool:
            raise GraphError(f"Edge ({i}, {j}) must be {form}, got {quoted([i, j, error, *more])}.")
        if forecast != "hold":
            forecasts[i, j] = forecast
        if is_estimated:
            estimated.append((i, j))
    return edges, forecasts, estimated


def _check_kinds(forecasts: object, estimated: object, model: object, actions: object) -> None:
    """Raise `GraphError` for an argument of the wrong type."""
    if not isinstance(forecasts, (Mapping, type(None))):
        raise GraphError(f"forecasts must map edges to names, got {quoted(forecasts)}.")
    names = [] if forecasts is None else list(forecasts.values())
    if not all(isinstance(name, str) and name in FORECASTS for name in names):
        raise GraphError(f"forecasts must be out of {', '.join(FORECASTS)}, got {quoted(names)}.")
    if not isinstance(estimated, (list, tuple, set, frozenset, Mapping)) or not all(map(is_pair, estimated)):
        raise GraphError(f"estimated must be a list of edges (i, j), got {quoted(estimated)}.")
    for name, value, kind in (("model", model, ResidualModel), ("actions", actions, StepActions)):
        if not isinstance(value, (kind, type(None))):
            raise GraphError(f"{name} must be a {kind.__name__} or None, got {quoted(value)}.")


def _check_extras(graph: ErrorGraph) -> None:
    """Raise `GraphError` unless forecasts and estimates are of edges, and there is a model that fits."""
    stray = list((set(graph.forecasts) | graph.estimated) - set(graph.edges))
    if stray:
        raise GraphError(f"forecasts and estimated must name edges of the graph, got {quoted(stray)}.")
    if graph.forecasts and graph.model is None:
        raise GraphError("Forecasts other than hold need the model that has their weights. Give model=.")
    actions = graph.actions
    if actions is not None:
        count = graph.num_steps
        edges = [edge for edge in actions.partial_errors if not 0 <= edge[0] < edge[1] - 1 < count - 1]
        steps = [step for step in actions.sparse_errors if not 0 <= step < count]
        if edges or steps:
            raise GraphError(
                f"actions must be of edges and steps below num_steps={count}, got {quoted([*edges, *steps])}."
            )
    if graph.model is not None and graph.model.num_steps != graph.num_steps:
        raise GraphError(f"The model is of {graph.model.num_steps} steps, the graph of {graph.num_steps}.")


def _check_edge(num_steps: Any, edge: Any, error: Any) -> None:
    if not is_pair(edge) or type(num_steps) is not int or not 0 <= edge[0] < edge[1] < num_steps:
        raise GraphError(f"Edge {quoted(edge)} is not within 0 <= i < j < num_steps={quoted(num_steps)}.")
    if not is_number(error) or error < 0:
        raise GraphError(f"The error of edge {edge} must be a finite number of at least 0, got {quoted(error)}.")
    if edge[1] == edge[0] + 1 and error != 0:
        raise GraphError(f"Edge {edge} has length 1 and reuses nothing; its error is 0, got {quoted(error)}.")
