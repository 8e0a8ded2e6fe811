"""`ProfileJob`: what a profiling job measures, and the checks of the arguments that say so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..configs import SVG2Config
from ..documents import is_number, quoted
from ..errors import ConfigError
from ..schedule import MAX_STEPS
from .residual_model import FORECASTS
from .rollout import Batch, Rollout
from .workdir import Task

MODES = ("exact", "lazy", "estimate")
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class ProfileJob:
    """What is measured: edges of at most ``max_segment`` steps, on every batch. For the rest see `profile`."""

    batches: tuple[Batch, ...]
    num_steps: int
    max_segment: int
    inputs: Mapping[str, Any]
    mode: str = "exact"
    forecasts: tuple[str, ...] = ("hold",)
    budgets: tuple[int, ...] = ()
    objective: str = "lexicographic-minimax"
    power: float = 4.0
    safety: float = 2.0
    has_times: bool = False
    partial_blocks: tuple[int, int] | None = None
    sparse_config: Mapping[str, Any] | None = None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Videos of each batch."""
        return tuple(len(batch.prompts) for batch in self.batches)

    @property
    def measured_batches(self) -> range:
        """Batches that rollouts run on: gains alone need no more than one."""
        return range(1 if self.mode == "estimate" else len(self.batches))

    def rollouts(self) -> Iterator[Rollout]:
        """Every rollout that an exact profile runs on a batch, in order."""
        for start in range(self.num_steps - 2):
            for stop in range(start + 2, min(start + self.max_segment, self.num_steps - 1) + 1):
                for forecast in self.forecasts:
                    yield Rollout(start, stop, forecast)

    def tasks(self, rollouts: Iterable[Rollout]) -> list[Task]:
        """``rollouts`` on every batch, in the order in which they are run."""
        wanted = list(rollouts)
        return [(batch, rollout) for batch in self.measured_batches for rollout in wanted]

    def cost_steps(self, task: Task) -> int:
        """Full denoiser steps of one rollout, over the videos of its batch."""
        batch, rollout = task
        return rollout.cost_steps(self.num_steps) * self.batch_sizes[batch]

    @property
    def trajectory_steps(self) -> int:
        """Full denoiser steps of all trajectories."""
        return self.num_steps * sum(self.batch_sizes)


def checked_job(
    prompts: Sequence[str],
    *,
    num_inference_steps: int,
    seeds: Sequence[int] = (0,),
    max_segment: int | None = None,
    batch_size: int = 4,
    mode: str = "exact",
    forecasts: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    objective: str = "lexicographic-minimax",
    power: float = 4.0,
    safety: float = 2.0,
    step_times: bool = False,
    partial_blocks: Sequence[int] | None = None,
    sparse: SVG2Config | None = None,
    **inputs: Any,
) -> ProfileJob:
    """The job that arguments of `profile` ask for, or a `ConfigError` that says which one is wrong."""
    num_steps = num_inference_steps
    _check_videos(prompts, seeds)
    if mode not in MODES:
        raise ConfigError(f"mode={quoted(mode)} is not available. Use one of: {', '.join(map(repr, MODES))}.")
    longest = _checked_sizes(num_steps, max_segment, batch_size)
    if forecasts is None:
        forecasts = ("hold",) if mode == "exact" else tuple(FORECASTS)
    _check_forecasts(forecasts)
    if not is_number(safety) or safety < 0:
        raise ConfigError(f"safety must be a finite number of at least 0, got {quoted(safety)}.")
    _check_inputs(inputs)
    groups = [tuple(prompts[k : k + batch_size]) for k in range(0, len(prompts), batch_size)]
    return ProfileJob(
        batches=tuple(Batch(group, seed) for seed in seeds for group in groups),
        num_steps=num_steps,
        max_segment=longest,
        inputs=dict(inputs),
        mode=mode,
        forecasts=tuple(forecasts),
        budgets=_checked_budgets(budgets, num_steps, longest),
        objective=objective,
        power=power,
        safety=float(safety),
        has_times=bool(step_times) or partial_blocks is not None or sparse is not None,
        partial_blocks=_checked_blocks(partial_blocks),
        sparse_config=_checked_sparse(sparse),
    )


def _checked_blocks(blocks: Sequence[int] | None) -> tuple[int, int] | None:
    if blocks is None:
        return None
    if (
        not isinstance(blocks, (list, tuple))
        or len(blocks) != 2
        or any(type(count) is not int or count < 0 for count in blocks)
        or not any(blocks)
    ):
        raise ConfigError(
            "partial_blocks must be two integers of at least 0, the probe and corrector blocks of a partial step, not "
            f"both 0; got {quoted(blocks)}."
        )
    return blocks[0], blocks[1]


def _checked_sparse(sparse: SVG2Config | None) -> dict[str, Any] | None:
    """The fields of the config that are not at their defaults; which steps are dense, the planner decides."""
    if sparse is None:
        return None
    if not isinstance(sparse, SVG2Config):
        raise ConfigError(f"sparse must be an SVG2Config, got {quoted(sparse)}.")
    default = asdict(SVG2Config())
    return {name: value for name, value in asdict(sparse).items() if value != default[name] and name != "dense_steps"}


def _checked_sizes(num_steps: int, max_segment: int | None, batch_size: int) -> int:
    """The longest edge, with all three numbers checked."""
    whole = num_steps - 1 if type(num_steps) is int else 0
    for name, value, low in (
        ("num_inference_steps", num_steps, 3),
        ("max_segment", whole if max_segment is None else max_segment, 2),
        ("batch_size", batch_size, 1),
    ):
        if type(value) is not int or not low <= value <= MAX_STEPS:
            raise ConfigError(f"{name} must be an integer from {low} to {MAX_STEPS}, got {quoted(value)}.")
    return min(whole if max_segment is None else max_segment, whole)


def _check_videos(prompts: object, seeds: object) -> None:
    if not isinstance(prompts, (list, tuple)) or not prompts or not all(isinstance(p, str) and p for p in prompts):
        raise ConfigError(f"prompts must be a non-empty list of non-empty strings, got {quoted(prompts)}.")
    if (
        not isinstance(seeds, (list, tuple, range))
        or not 0 < len(seeds) <= MOST_SEEDS
        or any(type(seed) is not int or not 0 <= seed < 2**63 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ConfigError(
            f"seeds must be 1 to {MOST_SEEDS} distinct integers of at least 0 and below 2**63, got {quoted(seeds)}."
        )


def _check_forecasts(forecasts: object) -> None:
    if (
        not isinstance(forecasts, (list, tuple))
        or not forecasts
        or any(not isinstance(name, str) or name not in FORECASTS for name in forecasts)
        or len(set(forecasts)) < len(forecasts)
    ):
        raise ConfigError(f"forecasts must be distinct names out of {', '.join(FORECASTS)}, got {quoted(forecasts)}.")


def _checked_budgets(budgets: Sequence[int] | None, num_steps: int, max_segment: int) -> tuple[int, ...]:
    """The budgets to decide: by default from a fifth to three fifths of the steps."""
    least = 1 + -(-(num_steps - 1) // max_segment)
    if budgets is None:
        return tuple(range(max(least, num_steps // 5), max(least, 3 * num_steps // 5) + 1))
    if (
        not isinstance(budgets, (list, tuple, range))
        or not budgets
        or any(type(budget) is not int or not least <= budget <= num_steps for budget in budgets)
    ):
        raise ConfigError(
            f"budgets must be integers from {least} (edges have at most {max_segment} steps) to {num_steps}, got "
            f"{quoted(budgets)}."
        )
    return tuple(sorted(set(budgets)))


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
