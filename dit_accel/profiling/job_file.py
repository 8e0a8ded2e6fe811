"""Profiling jobs as TOML files: what to profile, with which prompts, and which presets to plan from it."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..configs import SVG2Config
from ..demo import DEMO_INPUTS
from ..documents import check_depth, is_number, is_plain_name, quoted, read_json_file
from ..errors import ConfigError, JobError, did_you_mean
from ..loading import DEMO_SOURCE, load_pipeline
from ..schedule import CacheSchedule
from .distributed import process_pool
from .error_graph import ErrorGraph
from .job import profile
from .planner import plan
from .polish import check_rollouts, polish
from .ray_pool import ray_pool
from .request import checked_job
from .shards import Shard, profile_shard
from .workdir import Task

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MAX_FILE_BYTES = 1 << 20
_SECTIONS: dict[str, dict[str, type]] = {
    "job": {"name": str},
    "pipeline": {"source": str, "dtype": str, "device": str, "offload": str, "vae_tiling": bool},
    "profile": {
        "prompts": list,
        "seeds": list,
        "num_inference_steps": int,
        "max_segment": int,
        "mode": str,
        "batch_size": int,
        "forecasts": list,
        "budgets": list,
        "safety": float,
        "step_times": bool,
        "partial_blocks": list,
    },
    "sparse": {field.name: object for field in fields(SVG2Config) if field.name != "dense_steps"},
    "inputs": {},
    "plan": {"objective": str, "power": float, "presets": dict, "speedups": dict, "polish": dict},
}
# Arguments of `profile` that a job file cannot set, or sets elsewhere.
_PROFILE_OWN = ("pipe", "workdir", "executor", "progress", "objective", "power", "sparse")
_REHEARSED_STEPS = 200
_REQUIRED = (("job", "name"), ("pipeline", "source"), ("profile", "prompts"), ("profile", "num_inference_steps"))


@dataclass(frozen=True)
class JobFile:
    """The contents of a job file; see ``offline_profiles/jobs/digits-wan.toml`` for one with comments."""

    name: str
    source: str
    dtype: str
    device: str
    profile: Mapping[str, Any]
    inputs: Mapping[str, Any]
    objective: str
    power: float
    presets: Mapping[str, int] = field(default_factory=dict)
    speedups: Mapping[str, float] = field(default_factory=dict)
    polish: Mapping[str, int] = field(default_factory=dict)
    sparse: SVG2Config | None = None
    offload: str = "none"
    vae_tiling: bool = False

    @classmethod
    def load(cls, path: Path) -> JobFile:
        """Read and check a job file.

        Raises:
            JobError: missing, too large, not TOML, unknown or missing keys, or a value of the wrong type.
        """
        text = read_json_file(path, MAX_FILE_BYTES, JobError, "job")
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # TOMLDecodeError, or what tomllib lets through
            raise JobError(f"{path} is not valid TOML: {error!s:.200}.") from None
        check_depth(document, JobError, str(path))
        _check_document(document, str(path))
        plan = document.get("plan", {})
        presets, speedups = plan.get("presets", {}), plan.get("speedups", {})
        if any(type(budget) is not int for budget in presets.values()):
            raise JobError(
                f"{path}: plan.presets maps a preset name to its number of full steps, got {quoted(presets)}."
            )
        if not all(is_number(s) and s > 0 for s in speedups.values()) or set(presets) & set(speedups):
            raise JobError(
                f"{path}: plan.speedups maps a preset name, none of plan.presets, to a number above 0, got "
                f"{quoted(speedups)}."
            )
        if speedups and document["profile"].get("step_times") is False:
            raise JobError(f"{path}: plan.speedups needs step times. Leave profile.step_times out, or make it true.")
        polished = plan.get("polish", {})
        if not all(name in presets and type(runs) is int and runs >= 0 for name, runs in polished.items()):
            raise JobError(
                f"{path}: plan.polish maps a preset of plan.presets to its number of whole runs, got "
                f"{quoted(polished)}."
            )
        for name in (document["job"]["name"], *presets, *speedups):
            if not is_plain_name(name):  # they become names of files
                raise JobError(f"{path}: {quoted(name)} cannot name files. Use a-z, 0-9 and hyphens, at most 64.")
        pipeline = document["pipeline"]
        is_demo = pipeline["source"] == DEMO_SOURCE  # whose inputs are known
        return cls(
            name=document["job"]["name"],
            source=pipeline["source"],
            dtype=pipeline.get("dtype", "float32"),
            device=pipeline.get("device", "cpu"),
            profile=document["profile"],
            inputs={**(DEMO_INPUTS if is_demo else {}), **document.get("inputs", {})},
            objective=plan.get("objective", "lexicographic-minimax"),
            power=plan.get("power", 4.0),
            presets=presets,
            speedups=speedups,
            polish=polished,
            sparse=_sparse_config(document, str(path)),
            offload=pipeline.get("offload", "none"),
            vae_tiling=pipeline.get("vae_tiling", False),
        )

    def profile_arguments(self) -> dict[str, Any]:
        """Arguments of `profile`: also what follows from the plans that are wanted."""
        wanted = {"objective": self.objective, "power": self.power, "sparse": self.sparse}
        if self.speedups:
            wanted["step_times"] = True
        if self.presets and self.profile.get("mode") == "lazy":
            wanted["budgets"] = sorted(set(self.presets.values()))
        return {**wanted, **self.profile, **self.inputs}

    @property
    def load_pipeline(self) -> Callable[[], DiffusionPipeline]:
        """A picklable function that loads the job's pipeline."""
        return functools.partial(
            load_pipeline, self.source, self.dtype, self.device, offload=self.offload, vae_tiling=self.vae_tiling
        )


def _sparse_config(document: Mapping[str, Any], origin: str) -> SVG2Config | None:
    try:
        return SVG2Config(**document["sparse"]) if "sparse" in document else None
    except ConfigError as problem:
        raise JobError(f"{origin}: [sparse]: {problem}") from None


def _check_document(document: Mapping[str, Any], origin: str) -> None:
    """Raise `JobError` for unknown sections or keys, wrong types, and missing keys."""
    for section, body in document.items():
        if section not in _SECTIONS:
            hint = did_you_mean(section, _SECTIONS)
            raise JobError(f"{origin}: unknown section [{section:.80}]. Sections: {', '.join(_SECTIONS)}.{hint}")
        if not isinstance(body, dict):
            raise JobError(f"{origin}: {section} must be a section [{section}], got {quoted(body)}.")
        allowed = _SECTIONS[section]
        for key, value in body.items():
            if section == "inputs":  # the pipeline's own arguments
                if key in _SECTIONS["profile"] or key in _PROFILE_OWN:
                    raise JobError(
                        f"{origin}: {key} is no argument of the pipeline; it does not belong into [inputs]."
                    )
                continue
            if key not in allowed:
                raise JobError(
                    f"{origin}: unknown key {section}.{key:.80}. Keys: {', '.join(allowed)}."
                    f"{did_you_mean(key, allowed)}"
                )
            is_whole = allowed[key] is float and type(value) is int
            if allowed[key] is not object and type(value) is not allowed[key] and not is_whole:
                raise JobError(f"{origin}: {section}.{key} must be a {allowed[key].__name__}, got {quoted(value)}.")
    missing = [f"{section}.{key}" for section, key in _REQUIRED if key not in document.get(section, {})]
    if missing:
        raise JobError(f"{origin}: missing {', '.join(missing)}.")


def run_job(
    job: JobFile,
    workdir: Path,
    out: Path,
    num_workers: int | None = None,
    *,
    ray: str | None = None,
    rollouts: int = 0,
    progress: bool = True,
) -> tuple[ErrorGraph, dict[Path, CacheSchedule]]:
    """Profile as ``job`` says, plan its presets and write graph and schedules into ``out``.

    Args:
        job: the job.
        workdir: keeps finished rollouts; run again with the same one to continue.
        out: receives ``<num_steps>-steps.graph.json`` and ``<preset>.json``; only written when everything is solved.
        num_workers: processes that roll out. By default this one; with ray as many as the cluster has room for.
        ray: roll out on a Ray cluster: ``auto`` is the one that runs here, ``local`` a new one on this machine,
            otherwise its address. Each worker has a GPU if the job's device is one, else a CPU core.
        rollouts: whole runs that `polish` spends on every preset of a budget for which the job gives no number.
        progress: show bars with the time left.

    Raises:
        JobError, GraphError, ConfigError: the job, the workdir, the cluster or a budget cannot be used.
        MissingPackageError: ray is needed and not installed.
    """
    if num_workers is not None and num_workers < 1:
        raise JobError(f"workers must be at least 1, got {num_workers}.")
    check_rollouts(rollouts)
    _check_plan(job)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"The output directory {out} cannot be written: {error}.") from None
    arguments = job.profile_arguments()
    with _executor(job, num_workers, ray) as executor:
        # With Ray this process computes nothing but polish, so it need not have the job's device.
        computes_here = ray is None or rollouts or job.polish
        pipe = (job if computes_here else replace(job, device="cpu", offload="none")).load_pipeline()
        graph = profile(pipe, workdir=workdir, executor=executor, progress=progress, **arguments)
    asked = checked_job(**arguments)
    how: dict[str, Any] = {"objective": job.objective, "power": job.power}
    polished = functools.partial(polish, pipe, asked, graph, workdir=workdir, progress=progress)
    planned = {
        out / f"{name}.json": polished(plan(graph, budget, **how), rollouts=job.polish.get(name, rollouts))
        for name, budget in job.presets.items()
    }
    planned |= {out / f"{name}.json": plan(graph, speedup=s, **how) for name, s in job.speedups.items()}
    named = {
        path: replace(schedule, provenance={**schedule.provenance, "name": f"{job.name}/{path.stem}"})
        for path, schedule in planned.items()
    }
    graph.save(out / f"{graph.num_steps}-steps.graph.json")
    for path, schedule in named.items():
        schedule.save(path)
    return graph, named


def run_shard(job: JobFile, workdir: Path, shard: str, *, progress: bool = True) -> tuple[Shard, list[Task]]:
    """Measure one share of ``job``, and stop.

    Args:
        job: the job; its mode is exact.
        workdir: of this share, or of all.
        shard: ``i/n``, or ``auto``; see `Shard.parse`. Of a launcher's processes each takes the GPU of its number.
        progress: show a bar.

    Returns:
        The share and its rollouts.

    Raises:
        JobError, ConfigError: the job, the workdir or the shard cannot be used.
    """
    share = Shard.parse(shard)
    if job.device == "cuda" and share.local_index is not None:
        visible = max(1, torch.cuda.device_count())  # one, where the launcher shows each process its own
        job = replace(job, device=f"cuda:{share.local_index % visible}")
    pipe = job.load_pipeline()
    return share, profile_shard(pipe, shard=share, workdir=workdir, progress=progress, **job.profile_arguments())


def _executor(job: JobFile, num_workers: int | None, ray: str | None) -> AbstractContextManager[Executor | None]:
    """Where the job's rollouts run."""
    if ray is None:
        return nullcontext() if num_workers in (None, 1) else process_pool(job.load_pipeline, num_workers)
    kind = job.device.partition(":")[0]  # of the GPUs, a worker sees its own alone
    gpus = 0.0 if kind == "cpu" else 1.0
    load = replace(job, device=kind).load_pipeline
    return ray_pool(load, address=ray, num_workers=num_workers, gpus_per_worker=gpus)


def _check_plan(job: JobFile) -> None:
    """Plan on a graph of zeros: a budget or objective that cannot work is found now, not after hours of rollouts."""
    num_steps = job.profile["num_inference_steps"]
    longest = job.profile.get("max_segment", num_steps)
    if not job.presets or num_steps > _REHEARSED_STEPS:
        return
    edges = {(i, j): 0.0 for i in range(num_steps) for j in range(i + 2, min(i + longest + 1, num_steps))}
    for budget in job.presets.values():
        plan(ErrorGraph(num_steps, edges), budget, objective=job.objective, power=job.power)
