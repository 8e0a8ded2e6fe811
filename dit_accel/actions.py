"""What a schedule says of its steps, with the checks: compute steps, forecast weights, partial and sparse steps."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeVar

from .documents import is_number, quoted
from .errors import ScheduleError

MAX_STEPS = 10_000
MAX_WEIGHTS = 8
HOLD = (1.0,)


@dataclass(frozen=True)
class PartialSteps:
    """Steps at which only the first and the last blocks run, and the middle ones' residual is reused (DBCache).

    Args:
        steps: step indices, none of them a compute step.
        probe_blocks, corrector_blocks: blocks that run, at the beginning and at the end; at least one in all.
    """

    steps: tuple[int, ...]
    probe_blocks: int
    corrector_blocks: int

    def __post_init__(self) -> None:
        _freeze_steps(self)


@dataclass(frozen=True)
class SparseSteps:
    """Compute steps with sparse attention (SVG2).

    Args:
        steps: step indices, each a compute step.
        config: fields of `SVG2Config`; ``dense_steps`` is set by the schedule.
    """

    steps: tuple[int, ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze_steps(self)


def _freeze_steps(part: PartialSteps | SparseSteps) -> None:
    """Make its list of steps a tuple; whether these are steps is only known together with the schedule."""
    steps: object = part.steps
    if isinstance(steps, list):
        object.__setattr__(part, "steps", tuple(steps))


Part = TypeVar("Part", PartialSteps, SparseSteps)


def parsed_forecasts(value: object) -> dict[int, Any]:
    """The JSON object of weights, with steps as integers."""
    if not isinstance(value, dict) or not all(re.fullmatch(r"0|[1-9][0-9]{0,4}", key) for key in value):
        raise ScheduleError(f"forecasts must map steps to weights, got {quoted(value)}.")
    return {int(key): weights for key, weights in value.items()}


def parsed_part(kind: type[Part], value: object) -> Part | None:
    """The JSON object of `PartialSteps` or `SparseSteps`."""
    if value is None:
        return None
    names = {item.name for item in fields(kind)}
    if not isinstance(value, dict) or set(value) != names:
        raise ScheduleError(f"{kind.__name__} must be null or have the keys {sorted(names)}, got {quoted(value)}.")
    return kind(**value)


def checked_forecasts(
    num_steps: int, compute_steps: tuple[int, ...], forecasts: object
) -> dict[int, tuple[float, ...]]:
    """The weights as tuples of floats, without those that only hold; or a `ScheduleError`."""
    if not isinstance(forecasts, Mapping):
        raise ScheduleError(f"forecasts must map steps to weights, got {quoted(forecasts)}.")
    checked = {}
    for step, weights in forecasts.items():
        if type(step) is not int or not 0 < step < num_steps or step in compute_steps:
            raise ScheduleError(f"forecasts: {quoted(step)} is not a step that reuses. Leave compute steps out.")
        most = min(MAX_WEIGHTS, bisect_left(compute_steps, step))
        if not isinstance(weights, (list, tuple)) or not 1 <= len(weights) <= most or not all(map(is_number, weights)):
            raise ScheduleError(
                f"forecasts: step {step} must have 1 to {most} finite weights, one for each of the last compute "
                f"steps, got {quoted(weights)}."
            )
        checked[step] = tuple(map(float, weights))
    return {step: weights for step, weights in checked.items() if weights != HOLD}


def check_actions(num_steps: int, compute_steps: tuple[int, ...], partial: object, sparse: object) -> None:
    """Raise `ScheduleError` unless partial steps reuse, sparse steps compute, and both are sorted and distinct."""
    for name, part, kind in (("partial", partial, PartialSteps), ("sparse", sparse, SparseSteps)):
        if part is None:
            continue
        if not isinstance(part, (PartialSteps, SparseSteps)) or type(part) is not kind:
            raise ScheduleError(f"{name} must be a {kind.__name__} or None, got {quoted(part)}.")
        steps = part.steps
        if not isinstance(steps, tuple) or not steps or any(type(step) is not int for step in steps):
            raise ScheduleError(f"{name}.steps must be a non-empty list of integers, got {quoted(steps)}.")
        allowed = set(compute_steps)
        allowed = allowed if kind is SparseSteps else set(range(num_steps)) - allowed
        if list(steps) != sorted(set(steps)) or not set(steps) <= allowed:
            wanted = "compute steps" if kind is SparseSteps else "steps that are not compute steps"
            raise ScheduleError(f"{name}.steps must be increasing and {wanted}, got {quoted(steps)}.")
    if isinstance(partial, PartialSteps):
        counts = (partial.probe_blocks, partial.corrector_blocks)
        if any(type(count) is not int or count < 0 for count in counts) or not any(counts):
            raise ScheduleError(
                "partial: probe_blocks and corrector_blocks must be integers of at least 0, not both 0, got "
                f"{quoted(counts)}."
            )
    if isinstance(sparse, SparseSteps) and not isinstance(sparse.config, Mapping):
        raise ScheduleError(f"sparse.config must be a JSON object, got {quoted(sparse.config)}.")


def checked_steps(num_steps: object, compute_steps: object) -> tuple[int, ...]:
    """The steps as a tuple, or a `ScheduleError` that quotes what is wrong."""
    num_steps = checked_num_steps(num_steps)
    if not isinstance(compute_steps, (list, tuple)) or any(type(step) is not int for step in compute_steps):
        raise ScheduleError(f"compute_steps must be a list of integers, got {quoted(compute_steps)}.")
    steps = tuple(compute_steps)
    if not steps or steps[0] != 0:
        raise ScheduleError(f"compute_steps must start with 0 (nothing can be reused before it), got {quoted(steps)}.")
    for earlier, later in pairwise(steps):
        if later <= earlier:
            raise ScheduleError(
                f"compute_steps must increase strictly, got {quoted(later)} after {quoted(earlier)}: {quoted(steps)}."
            )
    if steps[-1] >= num_steps:
        raise ScheduleError(f"compute_steps must stay below num_steps={num_steps}, got {quoted(steps[-1])}.")
    return steps


def checked_num_steps(num_steps: object) -> int:
    """The number as it is, or a `ScheduleError` that says what is allowed."""
    if type(num_steps) is not int or not 2 <= num_steps <= MAX_STEPS:
        raise ScheduleError(f"num_steps must be an integer from 2 to {MAX_STEPS}, got {quoted(num_steps)}.")
    return num_steps
