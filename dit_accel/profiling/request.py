"""`ProfileJob`: what a profiling job measures, and the checks of the arguments that say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..schedule import MAX_STEPS, quoted
from .rollout import Batch, rollout_cost_steps
from .workdir import Task

MODES = ("exact",)


@dataclass(frozen=True)
class ProfileJob:
    """What is measured: every edge of at most ``max_segment`` steps, on every batch."""

    batches: tuple[Batch, ...]
    num_steps: int
    max_segment: int
    inputs: Mapping[str, Any]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Videos of each batch."""
        return tuple(len(batch.prompts) for batch in self.batches)

    def tasks(self) -> Iterator[Task]:
        """Every (batch, i, j), in the order in which they are run."""
        for batch in range(len(self.batches)):
            for start in range(self.num_steps - 2):
                for stop in range(start + 2, min(start + self.max_segment, self.num_steps - 1) + 1):
                    yield batch, start, stop

    def cost_steps(self, task: Task) -> int:
        """Full denoiser steps of one rollout, over the videos of its batch."""
        batch, start, stop = task
        return rollout_cost_steps(self.num_steps, start, stop) * self.batch_sizes[batch]


def checked_job(
    prompts: Sequence[str],
    num_steps: int,
    seeds: Sequence[int],
    max_segment: int | None,
    mode: str,
    batch_size: int,
    inputs: Mapping[str, Any],
) -> ProfileJob:
    """The job, or a `ConfigError` that says which argument is wrong."""
    if not isinstance(prompts, (list, tuple)) or not prompts or not all(isinstance(p, str) and p for p in prompts):
        raise ConfigError(f"prompts must be a non-empty list of non-empty strings, got {quoted(prompts)}.")
    if (
        not isinstance(seeds, (list, tuple, range))
        or not seeds
        or any(type(seed) is not int or not 0 <= seed < 2**63 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ConfigError(f"seeds must be distinct integers of at least 0 and below 2**63, got {quoted(seeds)}.")
    if mode not in MODES:
        raise ConfigError(f"mode={quoted(mode)} is not available. Use one of: {', '.join(map(repr, MODES))}.")
    whole = num_steps - 1 if type(num_steps) is int else 0
    for name, value, low in (
        ("num_inference_steps", num_steps, 3),
        ("max_segment", whole if max_segment is None else max_segment, 2),
        ("batch_size", batch_size, 1),
    ):
        if type(value) is not int or not low <= value <= MAX_STEPS:
            raise ConfigError(f"{name} must be an integer from {low} to {MAX_STEPS}, got {quoted(value)}.")
    _check_inputs(inputs)
    groups = [tuple(prompts[k : k + batch_size]) for k in range(0, len(prompts), batch_size)]
    batches = tuple(Batch(group, seed) for seed in seeds for group in groups)
    return ProfileJob(batches, num_steps, min(whole if max_segment is None else max_segment, whole), dict(inputs))


def _check_inputs(inputs: Mapping[str, Any]) -> None:
    """Further arguments of the pipeline: none that `profile` sets, and all plain, as they identify the job."""
    taken = {"prompt", "generator", "output_type", "return_dict", "num_inference_steps"} & set(inputs)
    if taken:
        raise ConfigError(
            f"profile sets {', '.join(sorted(taken))} itself; leave them out of the pipeline's arguments."
        )
    for name, value in inputs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ConfigError(
                f"{name} must be a plain JSON value, as it identifies the job, got {quoted(value)}."
            ) from None
