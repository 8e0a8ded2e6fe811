"""One run of a pipeline, accelerated or not, with what it took: what reports and benchmarks compare."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from ._diffusers import DenoiseClock
from .api import enable_acceleration
from .errors import DitAccelError
from .peak_memory import PeakMemory
from .registry import find_spec
from .run_record import AccelerationStats


@dataclass(frozen=True)
class TimedRun:
    """What a run gave and took.

    Args:
        output: of the pipeline's call.
        seconds: wall time of the denoising loop, clocked the same way with and without acceleration.
        stats: what ran; None for the full run.
        peak_memory_bytes: the most that torch had allocated on a CUDA device; None elsewhere.
    """

    output: Any
    seconds: float
    stats: AccelerationStats | None
    peak_memory_bytes: int | None

    @property
    def full_steps(self) -> int:
        """Steps that some denoiser computed in some branch; none counts twice where two share a run (Wan 2.2)."""
        branches = self.stats.computed_steps.values() if self.stats else ()
        return len({step for each in branches for steps in each.values() for step in steps})


def device_of(pipe: Any) -> torch.device:
    """Where the pipeline computes; with offload, other than where its weights are."""
    return torch.device(getattr(pipe, "_execution_device", "cpu"))


def takes(pipe: Any, argument: str) -> bool:
    """Whether a call of the pipeline has this argument."""
    return argument in signature(type(pipe).__call__).parameters


def timed_run(pipe: Any, what: tuple[Any, ...], seed: int, **arguments: Any) -> TimedRun:
    """Run ``pipe`` once under the presets and configs of ``what``, in full if there are none.

    Args:
        pipe: a pipeline that is not accelerated now.
        what: arguments of `enable_acceleration`.
        seed: of a generator on the CPU, so that it means the same noise on every device.
        **arguments: of the call.

    Raises:
        DitAccelError: the acceleration does not fit, or the denoiser was not called.
    """
    denoisers = tuple(find_spec(pipe).denoisers)
    with (
        enable_acceleration(pipe, *what) if what else nullcontext() as acceleration,
        DenoiseClock(pipe, denoisers) as clock,
        PeakMemory(device_of(pipe)) as memory,
    ):
        output = pipe(generator=torch.Generator().manual_seed(seed), **arguments)
        stats = acceleration.stats if acceleration else None
    if not clock.seconds > 0:
        raise DitAccelError(
            f"The denoising loop of {type(pipe).__name__} took {clock.seconds} s: its denoiser was not called, so no "
            "speed can be measured. Check num_inference_steps, and that the pipeline uses its own transformer."
        )
    return TimedRun(output, clock.seconds, stats, memory.nbytes)
