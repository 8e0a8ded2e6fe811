"""`profile`: the offline job that measures an `ErrorGraph`, resumable and on any executor."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from .._diffusers import denoisers_of
from ..api import refuse_accelerated
from ..errors import ConfigError, JobError, did_you_mean
from ..registry import find_spec, find_variant
from .error_graph import ErrorGraph
from .request import ProfileJob, checked_job
from .rollout import BatchRunner
from .workdir import Task, WorkDir

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def profile(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    num_inference_steps: int,
    seeds: Sequence[int] = (0,),
    max_segment: int | None = None,
    mode: str = "exact",
    workdir: str | Path | None = None,
    executor: Executor | None = None,
    batch_size: int = 4,
    progress: bool = True,
    **pipe_kwargs: Any,
) -> ErrorGraph:
    """Measure what every stretch of reuse costs the final video.

    For each batch the full trajectory runs once; then every edge i→j with ``2 <= j − i <= max_segment`` is rolled out
    through the executor that users run. The error is the mean L1 of the final latents, averaged over all videos.

    Args:
        pipe: a supported pipeline, not accelerated.
        prompts: what to sample. More prompts: a steadier graph, at proportional cost; keep report prompts out.
        num_inference_steps: steps of the trajectory; the schedule fits this number only.
        seeds: every prompt is sampled with each of them.
        max_segment: longest edge, at least 2; None allows all. Larger: smaller budgets are feasible, at higher cost.
        mode: ``"exact"`` rolls out every edge.
        workdir: keeps every finished rollout, so that a killed job continues; None works in a temporary directory.
        executor: where rollouts run, made by `dit_accel.profiling.distributed.process_pool`; None runs them here.
        batch_size: prompts denoised together; it can change the last bits of the result.
        progress: show a bar with the time left, in full denoiser steps.
        pipe_kwargs: further arguments of the pipeline call (``height``, ``guidance_scale``, …).

    Returns:
        The graph, with provenance; bit-identical whether or not the job was interrupted.

    Raises:
        ConfigError: an argument is out of range.
        AlreadyAcceleratedError: the pipeline is accelerated; its full run would not be one.
        JobError: the workdir cannot be written, is in use, is damaged or holds another job; or a run or worker failed.
        UnsupportedPipelineError: no specification covers the pipeline.
    """
    job = checked_job(prompts, num_inference_steps, seeds, max_segment, mode, batch_size, pipe_kwargs)
    _check_pipeline(pipe, job)
    if workdir is None and executor is not None:
        raise ConfigError("An executor needs a workdir that its workers can reach. Give workdir=.")
    description = describe_job(pipe, job)
    with tempfile.TemporaryDirectory() as temporary:
        work = WorkDir(Path(workdir or temporary), description)
        with work.locked():
            with _quiet(pipe):
                _measure_all(pipe, job, work, executor, progress)
            return _graph(job, work, description)


def describe_job(pipe: DiffusionPipeline, job: ProfileJob) -> dict[str, Any]:
    """Everything that can change the graph, as plain JSON values: the job's identity and the graph's provenance."""
    scheduler = pipe.scheduler
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    shift = scheduler.config.get("flow_shift", scheduler.config.get("shift"))
    return {
        "model": {
            "id": model_id(pipe),
            "pipeline_class": type(pipe).__name__,
            "weights_sha256": weights_sha256(pipe),
            "dtype": str(next(iter(denoisers_of(pipe, find_spec(pipe).denoisers).values())).dtype),
        },
        "scheduler": {
            "class": type(scheduler).__name__,
            "shift": shift,
            "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
        },
        "num_inference_steps": job.num_steps,
        "inputs": dict(job.inputs),
        "max_segment": job.max_segment,
        "batches": [{"prompts": list(batch.prompts), "seed": batch.seed} for batch in job.batches],
        "versions": {name: version(name) for name in ("torch", "diffusers", "dit_accel")},
    }


def model_id(pipe: DiffusionPipeline) -> str:
    """The recognised variant's name, else the last part of the path or hub id the pipeline was loaded from."""
    variant = find_variant(pipe, find_spec(pipe))
    return variant.name if variant else os.path.basename(str(pipe.config.get("_name_or_path", "") or "unnamed"))


def weights_sha256(pipe: DiffusionPipeline) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all denoiser weights, in sorted order."""
    digest = hashlib.sha256()
    for name, denoiser in denoisers_of(pipe, find_spec(pipe).denoisers).items():
        for key, tensor in sorted(denoiser.state_dict().items()):
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def run_task(
    pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, task: Task, runners: dict[int, BatchRunner]
) -> None:
    """Roll out one edge and make the result durable; ``runners`` keeps the batches loaded between tasks."""
    batch, start, stop = task
    if batch not in runners:
        runners.clear()
        runner = BatchRunner(pipe, job.batches[batch], job.num_steps, job.inputs)
        runner.load(work.trajectory(batch))
        runners[batch] = runner
    work.write(task, runners[batch].measure(start, stop))


@contextmanager
def _quiet(pipe: DiffusionPipeline) -> Iterator[None]:
    """No progress bars of the pipeline's own meanwhile; afterwards as before."""
    name = "_progress_bar_config"
    before = vars(pipe).get(name)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            delattr(pipe, name)
        else:
            pipe.set_progress_bar_config(**before)


def _measure_all(
    pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, executor: Executor | None, progress: bool
) -> None:
    """Run what is missing: trajectories first, then rollouts."""
    done = work.results(job.batch_sizes)
    tasks = list(job.tasks())
    missing = [task for task in tasks if task not in done]
    with tqdm(
        total=sum(map(job.cost_steps, tasks)),
        initial=sum(map(job.cost_steps, (task for task in tasks if task in done))),
        unit="step",
        disable=not progress,
        desc="profiling",
        smoothing=0.05,
    ) as bar:
        for index, batch in enumerate(job.batches):
            if not work.trajectory(index).exists():
                BatchRunner(pipe, batch, job.num_steps, job.inputs).record(work.trajectory(index))
        if executor is not None:
            for task in _finished_elsewhere(executor, job, work, missing):
                bar.update(job.cost_steps(task))
            return
        runners: dict[int, BatchRunner] = {}
        for task in missing:
            run_task(pipe, job, work, task, runners)
            bar.update(job.cost_steps(task))


def _finished_elsewhere(executor: Executor, job: ProfileJob, work: WorkDir, missing: list[Task]) -> Iterator[Task]:
    """Run tasks on ``executor``; yields each when it is done."""
    from .distributed import run_in_worker

    futures = {}
    try:
        futures = {executor.submit(run_in_worker, job, work, task): task for task in missing}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenExecutor:
        raise JobError(
            "A worker process ended: it could not load the pipeline, or ran out of memory (see its output above). "
            "What is done is kept; run again, with fewer workers."
        ) from None
    finally:
        for future in futures:  # else closing the pool would first finish the whole job
            future.cancel()


def _graph(job: ProfileJob, work: WorkDir, description: dict[str, Any]) -> ErrorGraph:
    """The mean over all videos of every edge."""
    results = work.results(job.batch_sizes)
    by_edge: dict[tuple[int, int], list[float]] = {}
    for task in job.tasks():
        by_edge.setdefault(task[1:], []).extend(results[task])
    return ErrorGraph(
        job.num_steps,
        {edge: sum(errors) / len(errors) for edge, errors in by_edge.items()},
        rollout_steps=sum(map(job.cost_steps, job.tasks())) + job.num_steps * sum(job.batch_sizes),
        provenance=description,
    )


def _check_pipeline(pipe: DiffusionPipeline, job: ProfileJob) -> None:
    """Raise unless ``pipe`` is supported, not accelerated, and takes the inputs of ``job``."""
    refuse_accelerated(pipe, denoisers_of(pipe, find_spec(pipe).denoisers))
    known = [name for name in inspect.signature(type(pipe).__call__).parameters if name != "self"]
    for name in job.inputs:
        if name not in known:
            raise ConfigError(
                f"{type(pipe).__name__} takes no argument {name!r}.{did_you_mean(name, known)} It takes: "
                f"{', '.join(known)}."
            )
