"""An exact profile in shares, one a process, which share nothing, or a folder: with torchrun, SLURM, or by hand.

A share is a stretch of the job's rollouts in their order, cut so that all cost the same. So a process sees few
batches, and records few trajectories. The shares depend on the job alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import quoted
from ..errors import ConfigError
from .job import check_pipeline, describe_job, quiet
from .measurement import Measurement
from .request import ProfileJob, checked_job
from .workdir import Task, WorkDir

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
_TEXT = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_LOCK = re.compile(r"shard-(\d{3,6})-of-(\d{3,6})\.lock")


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count``.

    Args:
        index: from 0.
        count: at least 1.
        local_index: which process of its machine this is, if a launcher said so: it uses the GPU of this number.

    Raises:
        ConfigError: there is no such share.
    """

    index: int
    count: int
    local_index: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"There is no shard {self.index} of {self.count}. Shards count from 0: 0/{max(self.count, 1)} is the "
                "first."
            )

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Shard:
        """``"i/n"``, or ``"auto"``: what torchrun or SLURM say in the environment of their processes.

        Raises:
            ConfigError: it is neither, or there is no such share.
        """
        if text == "auto":
            for index, count, local in _LAUNCHERS:
                if index in environment and count in environment:
                    return cls._of_launcher({name: environment.get(name) for name in (index, count, local)})
            raise ConfigError(
                "shard 'auto' needs RANK and WORLD_SIZE (torchrun) or SLURM_PROCID and SLURM_NTASKS (srun) in the "
                "environment. Start it with one of these, or give i/n."
            )
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigError(f"shard must be i/n, e.g. 0/8 for the first of 8, or 'auto'; got {quoted(text)}.")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def _of_launcher(cls, variables: Mapping[str, str | None]) -> Shard:
        try:
            index, count, local = (None if text is None else int(text) for text in variables.values())
            return cls(index or 0, count or 0, local)
        except ValueError:
            raise ConfigError(
                f"shard 'auto' needs integers in the environment, got {quoted(dict(variables))}. Give i/n."
            ) from None

    @property
    def lock_name(self) -> str:
        """The file that is locked while it is measured."""
        return f"shard-{self.index:03d}-of-{self.count:03d}.lock"

    def tasks(self, job: ProfileJob) -> list[Task]:
        """Its rollouts."""
        tasks = job.tasks(job.rollouts())
        whole = sum(map(job.cost_steps, tasks))
        share, before = [], 0
        for task in tasks:
            cost = job.cost_steps(task)
            if (2 * before + cost) * self.count // (2 * whole) == self.index:  # where its middle lies
                share.append(task)
            before += cost
        return share


def shards_in(workdir: Path) -> list[Shard]:
    """The shards that were ever started in a work directory."""
    matches = (_LOCK.fullmatch(path.name) for path in sorted(workdir.iterdir()))
    return [Shard(int(match[1]), int(match[2])) for match in matches if match]


def profile_shard(
    pipe: DiffusionPipeline, prompts: Sequence[str], shard: Shard, *, workdir: Path, progress: bool = True, **job: Any
) -> list[Task]:
    """Measure one share of an exact profile into a work directory, and stop. `merging.merge` makes the graph of all.

    Args:
        pipe, prompts, job: as of `profile`.
        shard: which share.
        workdir: its own, or one that all shards share. There, each trajectory is recorded by one of them.
        progress: show a bar of this share.

    Returns:
        The rollouts of the share.

    Raises:
        ConfigError: the job is not exact, or measures more than edges.
        JobError, UnsupportedPipelineError, AlreadyAcceleratedError: as `profile`.
    """
    asked = checked_job(prompts, **job)
    if asked.mode != "exact":
        raise ConfigError(
            f"mode={asked.mode!r} decides from each result what to roll out next, so it has no shares. Use "
            "mode='exact', or workers or ray, which are driven by one process."
        )
    if asked.has_times:
        raise ConfigError(
            "step_times, partial_blocks, sparse and speedups need the finished graph, so they have no shares. Leave "
            "them out, or use workers or ray."
        )
    check_pipeline(pipe, asked)
    work, tasks = WorkDir(workdir, describe_job(pipe, asked)), shard.tasks(asked)
    with (
        work.locked(shared=True),
        work.locked(shard.lock_name),
        quiet(pipe),
        Measurement(pipe, asked, work, None, progress) as measurement,
    ):
        measurement.share(tasks)
    return tasks
