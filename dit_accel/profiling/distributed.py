"""Rollouts in other processes of this machine: a pool whose workers each hold one pipeline."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import JobError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .measurement import TaskRunner
    from .request import ProfileJob
    from .workdir import Task, WorkDir

_WORKER: DiffusionPipeline | None = None  # set once in each worker process
_RUNNER: tuple[tuple[ProfileJob, Path], TaskRunner] | None = None  # of the job that was worked on last


def process_pool(load_pipeline: Callable[[], DiffusionPipeline], num_workers: int) -> ProcessPoolExecutor:
    """An executor for `dit_accel.profile`: ``num_workers`` processes, single-threaded on a CPU.

    Args:
        load_pipeline: a picklable function, called once in each worker.
        num_workers: more workers finish sooner while there are cores (or memory) for them.
    """
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=_start_worker, initargs=(load_pipeline,))


def run_in_worker(job: ProfileJob, work: WorkDir, task: Task) -> None:
    """Run one rollout on this worker's pipeline.

    Raises:
        JobError: the executor is not one of `process_pool`.
    """
    from .measurement import TaskRunner

    global _RUNNER
    if _WORKER is None:  # the pool's initializer sets it
        raise JobError(
            "The executor's workers hold no pipeline. Make it with dit_accel.profiling.distributed.process_pool."
        )
    if _RUNNER is None or _RUNNER[0] != (job, work.path):
        _RUNNER = (job, work.path), TaskRunner(_WORKER, job, work)
    _RUNNER[1].run(task)


def _start_worker(load_pipeline: Callable[[], DiffusionPipeline]) -> None:
    global _WORKER
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    _WORKER = pipe


def _exit_with_parent() -> None:
    """A killed parent leaves pool workers waiting for ever; they must go, and free the lock on the workdir."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
