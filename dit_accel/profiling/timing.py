"""How many milliseconds a step of one video takes, by what it does; all branches and the scheduler included."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from ..actions import PartialSteps, SparseSteps
from ..schedule import CacheSchedule
from ..step_tracker import DenoiserCall
from .request import ProfileJob
from .rollout import Batch, BatchRunner

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class StepTimer:
    """Observes a run: seconds from the begin of each step to that of the next."""

    def __init__(self) -> None:
        self._marks: dict[int, float] = {}

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins (see `CallObserver`)."""
        if call is not None and call.step not in self._marks:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self._marks[call.step] = time.perf_counter()

    def end(self, output: Any) -> None:
        """A forward is over (see `CallObserver`)."""

    def milliseconds(self) -> dict[int, float]:
        """Step -> milliseconds, of all steps but the last."""
        return {
            step: 1000 * (self._marks[step + 1] - begin)
            for step, begin in self._marks.items()
            if step + 1 in self._marks
        }


def measure_step_times(pipe: DiffusionPipeline, job: ProfileJob) -> dict[str, float]:
    """Medians over runs in which every second step does the one thing, between full steps."""
    runner = BatchRunner(pipe, Batch(job.batches[0].prompts[:1], job.batches[0].seed), job.num_steps, job.inputs)
    steps = range(job.num_steps)
    even, odd = tuple(steps[::2]), tuple(steps[1::2])
    schedules = {"reuse": CacheSchedule(job.num_steps, even)}
    if job.partial_blocks is not None:
        schedules["partial"] = CacheSchedule(job.num_steps, even, partial=PartialSteps(odd, *job.partial_blocks))
    if job.sparse_config is not None:
        schedules["sparse"] = CacheSchedule(job.num_steps, tuple(steps), sparse=SparseSteps(odd, job.sparse_config))
    found: dict[str, list[float]] = {"full": []}
    for kind, schedule in schedules.items():
        timer = StepTimer()
        runner.run(schedule, observer=timer)
        times = timer.milliseconds()
        full = [times[step] for step in even if step in times]
        found["full"] += full[1:] or full  # the first one starts things up
        found[kind] = [times[step] for step in odd if step in times]
    return {kind: statistics.median(times) for kind, times in found.items()}
