"""Rollouts in other processes, whose workers each hold one pipeline: what they run, and a pool on this machine."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import JobError
from .task_runner import TaskRunner
from .timing import measure_step_times

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from numpy.typing import NDArray

    from .request import ProfileJob
    from .rollout import RolloutSettings
    from .task_runner import State
    from .workdir import Task

_WORKER: DiffusionPipeline | None = None  # set once in each worker process
_RUNNER: tuple[str, TaskRunner] | None = None  # of the measurement that was worked on last


class RemoteExecutor(Executor):
    """An executor whose workers may be on other machines: they share neither files nor devices with this process."""

    @abstractmethod
    def share(self, path: Path) -> Any:
        """What to give to a task in place of a file: the worker gets its bytes, as an array."""


class WorkersLost(BrokenExecutor):
    """Several workers ended, one after the other, while they ran one and the same task."""


def process_pool(load_pipeline: Callable[[], DiffusionPipeline], num_workers: int) -> ProcessPoolExecutor:
    """An executor for `dit_accel.profile`: ``num_workers`` processes, single-threaded on a CPU.

    Args:
        load_pipeline: a picklable function, called once in each worker.
        num_workers: more workers finish sooner while there are cores (or memory) for them.
    """
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=_start_in_pool, initargs=(load_pipeline,))


def start_worker(load_pipeline: Callable[[], DiffusionPipeline]) -> None:
    """Make this process a worker: single-threaded on a CPU, with a pipeline of its own."""
    global _WORKER
    torch.set_num_threads(1)
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    _WORKER = pipe


def record_in_worker(job: ProfileJob, batch: int) -> NDArray[np.uint8]:
    """Run the full trajectory of a batch on this worker's pipeline; the bytes of the file that keeps it.

    Raises:
        JobError: the run diverges, or this process is no worker.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trajectory.safetensors"
        TaskRunner(_pipeline(), job).record(batch, path)
        return np.fromfile(path, np.uint8)


def run_in_worker(
    measurement: str, job: ProfileJob, settings: RolloutSettings, state: State, task: Task
) -> list[float]:
    """Run one rollout on this worker's pipeline.

    Args:
        measurement: tells one measurement from another; what was loaded for it is kept.
        job, settings: of the measurement.
        state: the trajectory of the batch of ``task``.
        task: the rollout, and its batch.

    Raises:
        JobError: the run diverges, or this process is no worker.
    """
    global _RUNNER
    if _RUNNER is None or _RUNNER[0] != measurement:
        _RUNNER = measurement, TaskRunner(_pipeline(), job)
    return _RUNNER[1].run(task, state, settings)


def times_in_worker(job: ProfileJob) -> dict[str, float]:
    """`measure_step_times` on this worker's pipeline."""
    return measure_step_times(_pipeline(), job)


def _pipeline() -> DiffusionPipeline:
    if _WORKER is None:
        raise JobError(
            "The executor's workers hold no pipeline. Make it with dit_accel.profiling.distributed.process_pool or "
            "dit_accel.profiling.ray_pool.ray_pool."
        )
    return _WORKER


def _start_in_pool(load_pipeline: Callable[[], DiffusionPipeline]) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    start_worker(load_pipeline)


def _exit_with_parent() -> None:
    """A killed parent leaves pool workers waiting for ever; they must go, and free the lock on the workdir."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
