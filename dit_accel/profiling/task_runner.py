"""`TaskRunner`: runs tasks of a profiling job on one pipeline, in this process or in a worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .request import ProfileJob
from .residual_model import ResidualModel
from .rollout import BatchRunner, RolloutSettings
from .workdir import Task

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline
    from numpy.typing import NDArray

    State = Path | NDArray[np.uint8]  # a recorded trajectory: its file, or the bytes of that


class TaskRunner:
    """Rolls out edges on one pipeline, and keeps the batch loaded between them."""

    def __init__(self, pipe: DiffusionPipeline, job: ProfileJob) -> None:
        self._pipe, self._job = pipe, job
        self._loaded: tuple[int, BatchRunner] | None = None

    def record(self, batch: int, path: Path) -> None:
        """Run the full trajectory of a batch into a file."""
        self._new(batch).record(path)

    def run(self, task: Task, state: State, settings: RolloutSettings) -> list[float]:
        """Roll out one edge from the trajectory of its batch: the errors of the batch's videos."""
        batch, rollout = task
        return self.runner(batch, state).measure(rollout, settings)

    def runner(self, batch: int, state: State) -> BatchRunner:
        """The batch with its trajectory loaded."""
        if self._loaded is None or self._loaded[0] != batch:
            self._loaded = None  # two trajectories may not fit
            runner = self._new(batch)
            runner.load(state)
            self._loaded = batch, runner
        return self._loaded[1]

    def _new(self, batch: int) -> BatchRunner:
        return BatchRunner(self._pipe, self._job.batches[batch], self._job.num_steps, self._job.inputs)


def rollout_settings(job: ProfileJob, model: ResidualModel | None) -> RolloutSettings:
    """What rollouts of a job need to know, given the model of its trajectories."""
    return RolloutSettings(model, job.partial_blocks or (1, 0), job.sparse_config)
