"""`StepActions`: what a step can do besides running in full or reusing all blocks, with times and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..documents import is_number, quoted
from ..errors import GraphError

Edge = tuple[int, int]
KINDS = ("full", "reuse", "partial", "sparse")


@dataclass(frozen=True)
class StepActions:
    """Measured milliseconds of a step by what it does, and errors of partial and sparse steps.

    Args:
        milliseconds: ``"full"``, ``"reuse"`` and, if they are there, ``"partial"`` and ``"sparse"`` -> wall time of a
            step, all branches and the scheduler included; above 0.
        partial_blocks: probe and corrector blocks of a partial step.
        partial_errors: edge i→j -> error of the final sample if steps i+1 … j−1 are partial instead of reused.
        sparse_config: fields of `SVG2Config` of a sparse step.
        sparse_errors: step -> error of the final sample if it alone is sparse.
        estimated_partial, estimated_sparse: of these, the ones that were not measured.

    Raises:
        GraphError: times or errors are missing, unknown or out of range.
    """

    milliseconds: Mapping[str, float]
    partial_blocks: tuple[int, int] | None = None
    partial_errors: Mapping[Edge, float] = field(default_factory=dict)
    sparse_config: Mapping[str, Any] | None = None
    sparse_errors: Mapping[int, float] = field(default_factory=dict)
    estimated_partial: frozenset[Edge] = frozenset()
    estimated_sparse: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("milliseconds", "partial_errors", "sparse_errors"):
            if not isinstance(getattr(self, name), Mapping):
                raise GraphError(f"{name} must be a mapping, got {quoted(getattr(self, name))}.")
        _check_times(self)
        edges, steps = list(self.partial_errors), list(self.sparse_errors)
        if not all(is_pair(edge) for edge in edges) or any(type(step) is not int for step in steps):
            raise GraphError(f"Errors must be of edges (i, j) and of steps, got {quoted([*edges, *steps])}.")
        errors = [*self.partial_errors.values(), *self.sparse_errors.values()]
        if not all(is_number(error) and error >= 0 for error in errors):
            raise GraphError(
                f"Errors of partial and sparse steps must be finite numbers of at least 0, got {quoted(errors)}."
            )
        _check_kinds(self)
        for name, known in (("estimated_partial", edges), ("estimated_sparse", steps)):
            given = getattr(self, name)
            if not isinstance(given, (set, frozenset)) or not given <= set(known):
                raise GraphError(f"{name} must be a set of what errors are given of, got {quoted(given)}.")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "milliseconds": dict(self.milliseconds),
            "partial_blocks": None if self.partial_blocks is None else list(self.partial_blocks),
            "partial_errors": [
                [i, j, error, (i, j) in self.estimated_partial]
                for (i, j), error in sorted(self.partial_errors.items())
            ],
            "sparse_config": None if self.sparse_config is None else dict(self.sparse_config),
            "sparse_errors": [
                [step, error, step in self.estimated_sparse] for step, error in sorted(self.sparse_errors.items())
            ],
        }

    @classmethod
    def from_json(cls, value: object) -> StepActions:
        """What `to_json` gave.

        Raises:
            GraphError: it is anything else.
        """
        keys = {"milliseconds", "partial_blocks", "partial_errors", "sparse_config", "sparse_errors"}
        if not isinstance(value, dict) or set(value) != keys or not isinstance(value["milliseconds"], dict):
            raise GraphError(f"actions must be null or have the keys {sorted(keys)}, got {quoted(value)}.")
        blocks, config = value["partial_blocks"], value["sparse_config"]
        is_pair = isinstance(blocks, list) and len(blocks) == 2 and all(type(count) is int for count in blocks)
        if not (blocks is None or is_pair) or not (config is None or isinstance(config, dict)):
            raise GraphError("partial_blocks must be two integers or null, and sparse_config an object or null.")
        partial = _rows(value["partial_errors"], 2)
        sparse = _rows(value["sparse_errors"], 1)
        return cls(
            value["milliseconds"],
            None if blocks is None else (blocks[0], blocks[1]),
            {(row[0], row[1]): row[2] for row in partial},
            config,
            {row[0]: row[1] for row in sparse},
            frozenset((row[0], row[1]) for row in partial if row[3]),
            frozenset(row[0] for row in sparse if row[2]),
        )


def is_pair(edge: object) -> bool:
    """Whether ``edge`` is a tuple of two integers."""
    return isinstance(edge, tuple) and len(edge) == 2 and all(type(step) is int for step in edge)


def _check_times(actions: StepActions) -> None:
    """Raise `GraphError` unless there is a time of all that a step may do."""
    wanted = {"full", "reuse"}
    wanted |= {"partial"} if actions.partial_errors else set()
    wanted |= {"sparse"} if actions.sparse_errors else set()
    given = actions.milliseconds
    if not wanted <= set(given) <= set(KINDS) or not all(is_number(v) and v > 0 for v in given.values()):
        raise GraphError(
            f"milliseconds must give positive numbers for {', '.join(sorted(wanted))}, got {quoted(dict(given))}."
        )


def _check_kinds(actions: StepActions) -> None:
    """Raise `GraphError` unless it is known what partial and sparse steps are, if there are any."""
    blocks, config = actions.partial_blocks, actions.sparse_config
    if blocks is not None and (not is_pair(blocks) or min(blocks) < 0 or not any(blocks)):
        raise GraphError(
            f"partial_blocks must be two integers of at least 0 and not both 0, or None; got {quoted(blocks)}."
        )
    if not isinstance(config, (Mapping, type(None))):
        raise GraphError(f"sparse_config must be a mapping or None, got {quoted(config)}.")
    if (actions.partial_errors and blocks is None) or (actions.sparse_errors and config is None):
        raise GraphError("Errors of partial steps need partial_blocks, those of sparse steps sparse_config.")


def _rows(value: object, num_steps: int) -> list[list[Any]]:
    """Rows of ``num_steps`` step indices, an error, and whether it is estimated."""
    if isinstance(value, list) and all(
        isinstance(row, list)
        and len(row) == num_steps + 2
        and all(type(step) is int for step in row[:num_steps])
        and type(row[-1]) is bool
        for row in value
    ):
        return value
    raise GraphError(f"Errors of actions must be lists of steps, an error and true or false, got {quoted(value)}.")
