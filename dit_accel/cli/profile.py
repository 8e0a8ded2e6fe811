"""``dit-accel profile``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .help_texts import arguments
from .options import quiet_loading
from .output import Result, status

_JOB = arguments("profiling.job_file", "run_job")
_SHARD = (
    "measure only share I of N, from 0, of an exact profile, and stop; 'dit-accel merge' joins them. 'auto': as "
    "torchrun or SLURM say."
)


def profile(
    job: Annotated[Path, typer.Argument(help="TOML file; those in offline_profiles/jobs/ have comments.")],
    workdir: Annotated[
        Path | None, typer.Option(help=_JOB["workdir"].text, show_default="in the user's cache")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=_JOB["out"].text, show_default="WORKDIR/profile")] = None,
    polish: Annotated[int, typer.Option(metavar="N", help=_JOB["rollouts"].text)] = 0,
    workers: Annotated[int | None, typer.Option(help=_JOB["num_workers"].text, show_default=False)] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_JOB["ray"].text)] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help=_SHARD)] = None,
    *,
    progress: bool,
) -> Result:
    """Measure an error graph and plan schedules.

    Run it again after an interruption: it goes on where it was.
    """
    with status("Starting"):
        from ..profiling.job_file import JobFile, run_job, run_shard

    found = JobFile.load(job)
    workdir = workdir or cache_dir() / "profiles" / found.name
    if shard is not None:
        if (out, polish, workers, ray) != (None, 0, None, None):
            raise typer.BadParameter("a shard has no --out, --polish, --workers and --ray.", param_hint="'--shard'")
        with quiet_loading():
            share, tasks = run_shard(found, workdir, shard, progress=progress)
        name = f"{share.index}/{share.count}"
        return Result({"shard": name, "rollouts": len(tasks)}, [f"{workdir}: shard {name}, {len(tasks)} rollouts"])
    with quiet_loading():
        graph, schedules = run_job(
            found, workdir, out or workdir / "profile", workers, ray=ray, rollouts=polish, progress=progress
        )
    lines = [f"{path}: {schedule.budget} of {schedule.num_steps} steps" for path, schedule in schedules.items()]
    return Result(
        {"rollout_steps": graph.rollout_steps, "schedules": list(schedules)},
        [f"{graph.rollout_steps:,} full denoiser steps, {len(graph.edges)} edges", *lines],
    )


def cache_dir() -> Path:
    """The user's cache directory for dit_accel."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dit_accel"
