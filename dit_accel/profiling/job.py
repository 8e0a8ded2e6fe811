"""`profile`: the offline job that measures an `ErrorGraph`, resumable and on any executor."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from .._diffusers import denoisers_of, refuse_native_cache
from ..errors import ConfigError, JobError
from ..registry import find_spec
from .error_graph import ErrorGraph
from .rollout import Batch, BatchRunner, rollout_cost_steps
from .workdir import Task, WorkDir

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MODES = ("exact",)


@dataclass(frozen=True)
class ProfileJob:
    """What is measured: every edge of at most ``max_segment`` steps, on every batch."""

    batches: tuple[Batch, ...]
    num_steps: int
    max_segment: int
    inputs: Mapping[str, Any]

    def tasks(self) -> Iterator[Task]:
        """Every (batch, i, j), in the order in which they are run."""
        for batch in range(len(self.batches)):
            for start in range(self.num_steps - 2):
                for stop in range(start + 2, min(start + self.max_segment, self.num_steps - 1) + 1):
                    yield batch, start, stop

    def cost_steps(self, task: Task) -> int:
        """Full denoiser steps of one rollout, over the videos of its batch."""
        batch, start, stop = task
        return rollout_cost_steps(self.num_steps, start, stop) * len(self.batches[batch].prompts)


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
        max_segment: longest edge, at least 2; None allows all. Larger: smaller budgets become feasible, at higher cost.
        mode: ``"exact"`` rolls out every edge.
        workdir: keeps every finished rollout, so that a killed job continues; None works in a temporary directory.
        executor: where rollouts run, e.g. `dit_accel.profiling.distributed.process_pool`; None runs them here.
        batch_size: prompts denoised together; it can change the last bits of the result.
        progress: show a bar with the time left, in full denoiser steps.
        pipe_kwargs: further arguments of the pipeline call (``height``, ``guidance_scale``, …).

    Returns:
        The graph, with provenance; bit-identical whether or not the job was interrupted.

    Raises:
        ConfigError: an argument is out of range.
        JobError: the workdir cannot be written, is in use, or holds another job.
        UnsupportedPipelineError: no specification covers the pipeline.
    """
    job = _checked_job(prompts, num_inference_steps, seeds, max_segment, mode, batch_size, pipe_kwargs)
    spec = find_spec(pipe)
    refuse_native_cache(pipe, denoisers_of(pipe, spec.denoisers))
    if workdir is None and executor is not None:
        raise ConfigError("An executor needs a workdir that its workers can reach. Give workdir=.")
    description = describe_job(pipe, job)
    with tempfile.TemporaryDirectory() as temporary:
        work = WorkDir(Path(workdir or temporary), description)
        with work.locked():
            _measure_all(pipe, job, work, executor, progress)
            return _graph(job, work, description)


def describe_job(pipe: DiffusionPipeline, job: ProfileJob) -> dict[str, Any]:
    """Everything that can change the graph, as plain JSON values: the job's identity and the graph's provenance."""
    scheduler = pipe.scheduler
    shift = scheduler.config.get("flow_shift", scheduler.config.get("shift"))
    return {
        "model": {
            "id": model_id(pipe),
            "pipeline_class": type(pipe).__name__,
            "weights_sha256": weights_sha256(pipe),
            "dtype": str(next(iter(denoisers_of(pipe, find_spec(pipe).denoisers).values())).dtype),
        },
        "scheduler": {"class": type(scheduler).__name__, "shift": shift},
        "num_inference_steps": job.num_steps,
        "inputs": dict(job.inputs),
        "max_segment": job.max_segment,
        "batches": [{"prompts": list(batch.prompts), "seed": batch.seed} for batch in job.batches],
        "versions": {name: version(name) for name in ("torch", "diffusers", "dit_accel")},
    }


def model_id(pipe: DiffusionPipeline) -> str:
    """The recognised variant's name, else the last part of the path or hub id the pipeline was loaded from."""
    from ..registry import find_variant

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


def run_task(pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, task: Task, runners: dict[int, BatchRunner]) -> None:
    """Roll out one edge and make the result durable; ``runners`` keeps the batches loaded between tasks."""
    batch, start, stop = task
    if batch not in runners:
        runners.clear()
        runners[batch] = BatchRunner(pipe, job.batches[batch], job.num_steps, job.inputs)
        runners[batch].load(work.trajectory(batch))
    work.write(task, runners[batch].measure(start, stop))


def _measure_all(pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, executor: Executor | None, progress: bool) -> None:
    """Run what is missing: trajectories first, then rollouts."""
    done = work.results()
    tasks = list(job.tasks())
    missing = [task for task in tasks if task not in done]
    runners: dict[int, BatchRunner] = {}
    bar_was = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=True)
    bar = tqdm(
        total=sum(map(job.cost_steps, tasks)),
        initial=sum(map(job.cost_steps, (task for task in tasks if task in done))),
        unit="step",
        disable=not progress,
        desc="profiling",
        smoothing=0.05,
    )
    try:
        for index, batch in enumerate(job.batches):
            if not work.trajectory(index).exists():
                BatchRunner(pipe, batch, job.num_steps, job.inputs).record(work.trajectory(index))
        if executor is None:
            for task in missing:
                run_task(pipe, job, work, task, runners)
                bar.update(job.cost_steps(task))
        else:
            from .distributed import run_in_worker

            futures = {executor.submit(run_in_worker, job, work, task): task for task in missing}
            for future in as_completed(futures):
                future.result()
                bar.update(job.cost_steps(futures[future]))
    finally:
        bar.close()
        pipe.set_progress_bar_config(**bar_was)


def _graph(job: ProfileJob, work: WorkDir, description: dict[str, Any]) -> ErrorGraph:
    """The mean over all videos of every edge."""
    results = work.results()
    by_edge: dict[tuple[int, int], list[float]] = {}
    for task in job.tasks():
        by_edge.setdefault(task[1:], []).extend(results[task])
    videos = sum(len(batch.prompts) for batch in job.batches)
    return ErrorGraph(
        job.num_steps,
        {edge: sum(errors) / len(errors) for edge, errors in by_edge.items()},
        rollout_steps=sum(map(job.cost_steps, job.tasks())) + job.num_steps * videos,
        provenance=description,
    )


def _checked_job(
    prompts: Sequence[str],
    num_steps: int,
    seeds: Sequence[int],
    max_segment: int | None,
    mode: str,
    batch_size: int,
    inputs: Mapping[str, Any],
) -> ProfileJob:
    """The job, or a `ConfigError` that says which argument is wrong."""
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) and p for p in prompts):
        raise ConfigError(f"prompts must be a non-empty list of non-empty strings, got {prompts!r:.80}.")
    if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be distinct integers of at least 0, got {list(seeds)!r:.80}.")
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r} is not available. Use one of: {', '.join(map(repr, MODES))}.")
    whole = num_steps - 1 if type(num_steps) is int else 0
    for name, value, low in (
        ("num_inference_steps", num_steps, 3),
        ("max_segment", whole if max_segment is None else max_segment, 2),
        ("batch_size", batch_size, 1),
    ):
        if type(value) is not int or value < low:
            raise ConfigError(f"{name} must be an integer of at least {low}, got {value!r}.")
    taken = {"prompt", "generator", "output_type", "return_dict", "num_inference_steps"} & set(inputs)
    if taken:
        raise JobError(f"profile sets {', '.join(sorted(taken))} itself; leave them out of the pipeline's arguments.")
    groups = [tuple(prompts[k : k + batch_size]) for k in range(0, len(prompts), batch_size)]
    batches = tuple(Batch(group, seed) for seed in seeds for group in groups)
    return ProfileJob(batches, num_steps, min(whole if max_segment is None else max_segment, whole), dict(inputs))
