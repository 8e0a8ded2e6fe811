"""`profile`: the offline job that measures an `ErrorGraph`, resumable and on any executor."""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._diffusers import denoisers_of
from ..api import refuse_accelerated
from ..configs import SVG2Config
from ..errors import ConfigError, did_you_mean
from ..registry import find_spec, model_id
from .error_graph import ErrorGraph
from .measurement import Measurement
from .planner import plan_all
from .request import ProfileJob, checked_job
from .workdir import WorkDir

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
    forecasts: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    objective: str = "lexicographic-minimax",
    power: float = 4.0,
    safety: float = 2.0,
    step_times: bool = False,
    partial_blocks: tuple[int, int] | None = None,
    sparse: SVG2Config | None = None,
    workdir: str | Path | None = None,
    executor: Executor | None = None,
    batch_size: int = 4,
    progress: bool = True,
    **pipe_kwargs: Any,
) -> ErrorGraph:
    """Measure what every stretch of reuse costs the final video.

    For each batch the full trajectory runs once; then edges i→j with ``2 <= j − i <= max_segment`` are rolled out
    through the executor that users run. The error is the mean L1 of the final latents, averaged over all videos.

    Args:
        pipe: a supported pipeline, not accelerated.
        prompts: what to sample. More prompts: a steadier graph, at proportional cost; keep report prompts out.
        num_inference_steps: steps of the trajectory; the schedule fits this number only.
        seeds: every prompt is sampled with each of them.
        max_segment: longest edge, at least 2; None allows all. Larger: smaller budgets are feasible, at higher cost.
        mode: ``"exact"`` rolls out every edge. ``"lazy"`` estimates all from the trajectories and a few rollouts, and
            rolls out those that can change the plan of a budget; the others keep their estimates. ``"estimate"`` rolls
            out none: it spends one trajectory a video, and four times the steps of one on the first batch for gains.
        forecasts: how a reuse step is made of the compute steps before: ``"hold"``; ``"scaled"``, the last one times a
            fitted number; ``"taylor1"``, ``"taylor2"``, polynomials in model time; ``"fitted"``, a fitted sum of the
            last three. Each edge keeps the best. None: ``"hold"`` alone for ``"exact"``, as each costs a rollout of
            every edge, otherwise all.
        budgets: what ``"lazy"`` decides. None: from a fifth to three fifths of the steps.
        objective, power: what `plan` will be asked for; ``"lazy"`` measures what that depends on.
        safety: how many standard deviations ``"lazy"`` allows an estimate to be off. Higher: more rollouts. Its plans
            are those of ``"exact"`` if no unmeasured edge is further off.
        step_times: also measure the milliseconds of full and reuse steps, for `plan` with ``milliseconds`` or
            ``speedup``.
        partial_blocks: (probe, corrector) blocks of *partial* steps, at which only these run. Given, their time and
            errors are measured, and `plan` may use them.
        sparse: knobs of *sparse* steps, full steps with sparse attention. Given, their time and errors are measured.
        workdir: keeps every finished rollout, so that a killed job continues; None works in a temporary directory.
        executor: where runs take place, made by `dit_accel.profiling.distributed.process_pool` or
            `dit_accel.profiling.ray_pool.ray_pool`; None runs them here.
        batch_size: prompts denoised together; it can change the last bits of the result.
        progress: show a bar with the time left, in full denoiser steps.
        pipe_kwargs: further arguments of the pipeline call (``height``, ``guidance_scale``, …).

    Returns:
        The graph, with provenance; bit-identical whether or not the job was interrupted.

    Raises:
        ConfigError: an argument is out of range.
        GraphError: the objective or power is not allowed.
        AlreadyAcceleratedError: the pipeline is accelerated; its full run would not be one.
        JobError: the workdir cannot be written, is in use, is damaged or holds another job; or a run or worker failed.
        UnsupportedPipelineError: no specification covers the pipeline.
    """
    job = checked_job(
        prompts,
        num_inference_steps=num_inference_steps,
        seeds=seeds,
        max_segment=max_segment,
        batch_size=batch_size,
        mode=mode,
        forecasts=forecasts,
        budgets=budgets,
        objective=objective,
        power=power,
        safety=safety,
        step_times=step_times,
        partial_blocks=partial_blocks,
        sparse=sparse,
        **pipe_kwargs,
    )
    plan_all(ErrorGraph(2, {}), objective=objective, power=power)  # refuses now what it does not know
    check_pipeline(pipe, job)
    if workdir is None and executor is not None:
        raise ConfigError("An executor needs a workdir, so that what its workers do is kept. Give workdir=.")
    description = describe_job(pipe, job)
    with tempfile.TemporaryDirectory() as temporary:
        work = WorkDir(Path(workdir or temporary), description)
        with work.locked(), quiet(pipe), Measurement(pipe, job, work, executor, progress) as measurement:
            return measurement.graph()


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
        "mode": job.mode,
        "forecasts": list(job.forecasts),
        **({"search": _search_settings(job)} if job.mode == "lazy" else {}),
        **({"actions": _action_settings(job)} if job.has_times else {}),
        "batches": [{"prompts": list(batch.prompts), "seed": batch.seed} for batch in job.batches],
        "versions": {name: version(name) for name in ("torch", "diffusers", "dit_accel")},
    }


def weights_sha256(pipe: DiffusionPipeline) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all denoiser weights, in sorted order."""
    digest = hashlib.sha256()
    for name, denoiser in denoisers_of(pipe, find_spec(pipe).denoisers).items():
        for key, tensor in sorted(denoiser.state_dict().items()):
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _action_settings(job: ProfileJob) -> dict[str, Any]:
    """What else steps may do in this job."""
    blocks = job.partial_blocks
    return {"partial_blocks": None if blocks is None else list(blocks), "sparse_config": job.sparse_config}


def _search_settings(job: ProfileJob) -> dict[str, Any]:
    """What decides which edges a lazy job rolls out."""
    power = {"power": job.power} if job.objective == "sum-power" else {}
    return {"budgets": list(job.budgets), "objective": job.objective, **power, "safety": job.safety}


@contextmanager
def quiet(pipe: DiffusionPipeline) -> Iterator[None]:
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


def check_pipeline(pipe: DiffusionPipeline, job: ProfileJob) -> None:
    """Raise unless ``pipe`` is supported, not accelerated, and takes the inputs of ``job``.

    Raises:
        UnsupportedPipelineError, AlreadyAcceleratedError: the pipeline cannot be profiled.
        ConfigError: it has no such input.
    """
    refuse_accelerated(pipe, denoisers_of(pipe, find_spec(pipe).denoisers))
    known = [name for name in inspect.signature(type(pipe).__call__).parameters if name != "self"]
    for name in job.inputs:
        if name not in known:
            raise ConfigError(
                f"{type(pipe).__name__} takes no argument {name!r}.{did_you_mean(name, known)} It takes: "
                f"{', '.join(known)}."
            )
