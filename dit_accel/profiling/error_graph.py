"""`ErrorGraph`: the DAG over denoising steps whose edges say what a stretch of reuse costs the final video."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GraphError, MissingPackageError
from ..schedule import MAX_STEPS, CacheSchedule, is_number, parse_document, quoted, read_json_file, save_file

if TYPE_CHECKING:
    import networkx

Edge = tuple[int, int]

SCHEMA = "dit_accel.error_graph"
VERSION = 1
MAX_FILE_BYTES = 64 << 20
_KEYS = ("num_steps", "edges", "rollout_steps", "provenance")


class ErrorGraph:
    """Nodes are the steps ``0 … num_steps−1``; edge i→j is the error of the final sample when i+1 … j−1 reuse step i.

    Args:
        num_steps: model steps of a trajectory, 2 to 10,000.
        edges: (i, j) -> error, finite and not negative, with ``0 <= i < j < num_steps``. Edges of length 1 reuse
            nothing: they always exist, with error 0, and need not be given.
        rollout_steps: full denoiser steps that measuring cost, summed over all videos.
        provenance: where the numbers come from; plain JSON values.

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
        self.num_steps = num_steps
        self.edges: dict[Edge, float] = {edge: float(error) for edge, error in edges.items()}
        self.rollout_steps = rollout_steps
        self.provenance: dict[str, Any] = dict(provenance or {})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ErrorGraph):
            return NotImplemented
        # As JSON, so that a loaded graph equals the saved one; parsed, so that the order of keys does not count.
        return bool(json.loads(self.to_json()) == json.loads(other.to_json()))

    __hash__ = None  # type: ignore[assignment]  # edges may be edited

    def __repr__(self) -> str:
        return f"ErrorGraph(num_steps={self.num_steps}, {len(self.edges)} edges, rollout_steps={self.rollout_steps})"

    def error(self, start: int, stop: int) -> float | None:
        """The error of edge ``start``→``stop``: 0 for length 1, None if it was not measured."""
        return self.edges.get((start, stop), 0.0 if stop == start + 1 else None)

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
        """The JSON form, schema v1; floats survive exactly."""
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "num_steps": self.num_steps,
            "rollout_steps": self.rollout_steps,
            "provenance": self.provenance,
            "edges": [[i, j, error] for (i, j), error in sorted(self.edges.items())],
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
        document = parse_document(text, SCHEMA, VERSION, _KEYS, GraphError, str(path))
        rows = document["edges"]
        if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != 3 for row in rows):
            raise GraphError(f"{path}: edges must be a list of [i, j, error].")
        edges: dict[Edge, float] = {}
        try:
            for i, j, error in rows:
                _check_edge(document["num_steps"], (i, j), error)
                if (i, j) in edges:
                    raise GraphError(f"Edge ({i}, {j}) is given twice.")
                edges[i, j] = error
            return cls(
                document["num_steps"],
                edges,
                rollout_steps=document["rollout_steps"],
                provenance=document["provenance"],
            )
        except GraphError as problem:
            raise GraphError(f"{path}: {problem}") from None

    def plot(self, path: str | Path, schedules: Mapping[str, CacheSchedule] | None = None) -> None:
        """Write a heat map of the edges (log scale), with the paths of ``schedules`` drawn on it.

        Raises:
            MissingPackageError: matplotlib is not installed.
            GraphError: there is nothing to plot, or the picture cannot be written.
        """
        try:
            from matplotlib.colors import LogNorm
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingPackageError(
                'plot needs matplotlib, which is not installed. pip install "dit-accel[plot]"'
            ) from None
        measured = {edge: error for edge, error in self.edges.items() if error > 0}
        if not measured:
            raise GraphError("There is no edge with a positive error to plot.")
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        axes = figure.add_subplot()
        starts, lengths = zip(*((i, j - i - 1) for i, j in measured), strict=True)
        marks = axes.scatter(starts, lengths, c=list(measured.values()), norm=LogNorm(), marker="s", s=45)
        for name, schedule in (schedules or {}).items():
            pairs = list(zip(schedule.compute_steps, schedule.compute_steps[1:], strict=False))
            axes.plot(
                [i for i, _ in pairs], [j - i - 1 for i, j in pairs], "o-", fillstyle="none", lw=1, ms=8, label=name
            )
        if schedules:
            figure.legend(loc="outside upper center", ncols=len(schedules))
        axes.set(xlabel="computed step i", ylabel="steps that reuse it")
        figure.colorbar(marks, label="error of the final latent (mean L1)")
        try:
            figure.savefig(path, dpi=120)
        except (OSError, ValueError) as problem:  # an unwritable path, or an ending that matplotlib cannot write
            raise GraphError(f"The plot cannot be written to {str(path)!r}: {problem}. Give another path.") from None


def _check_edge(num_steps: Any, edge: Any, error: Any) -> None:
    is_pair = isinstance(edge, tuple) and len(edge) == 2 and all(type(step) is int for step in edge)
    if not is_pair or type(num_steps) is not int or not 0 <= edge[0] < edge[1] < num_steps:
        raise GraphError(f"Edge {quoted(edge)} is not within 0 <= i < j < num_steps={quoted(num_steps)}.")
    if not is_number(error) or error < 0:
        raise GraphError(f"The error of edge {edge} must be a finite number of at least 0, got {quoted(error)}.")
    if edge[1] == edge[0] + 1 and error != 0:
        raise GraphError(f"Edge {edge} has length 1 and reuses nothing; its error is 0, got {quoted(error)}.")
