"""`merge`: one graph from the work directories of all shards of a profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..documents import quoted, sha256
from ..errors import ConfigError, JobError
from .error_graph import ErrorGraph
from .measurement import as_graph, follow, mean_errors
from .request import ProfileJob, checked_job
from .rollout import Batch, read_model
from .search import exact_search
from .shards import Shard, shards_in
from .workdir import Task, WorkDir, different_keys, read_description


def merge(workdirs: Sequence[Path]) -> ErrorGraph:
    """The graph that one process would have measured, from work directories of the same job. Needs no pipeline.

    Args:
        workdirs: of shards, in any order; or one that they shared.

    Raises:
        JobError: they are of different jobs, something is missing (it says which shards), two of them disagree, or one
            is damaged.
    """
    if not workdirs:
        raise JobError("There is nothing to merge. Give the work directories of the shards.")
    works = [WorkDir(path, read_description(path)) for path in workdirs]
    first = works[0]
    for work in works[1:]:
        if work.description != first.description:
            raise JobError(
                f"{first.path} and {work.path} hold different jobs; these differ: "
                f"{different_keys(first.description, work.description)}. Merge shards of one job."
            )
    job = _job_of(first)
    done = _results(works, job)
    tasks = job.tasks(job.rollouts())
    trajectories = [_trajectory(works, batch) for batch in range(len(job.batches))]
    if not all(trajectories) or not all(task in done for task in tasks):
        raise JobError(_what_is_missing(works, job, done))
    model = read_model(path for path in trajectories if path is not None)
    findings = follow(exact_search(job, model), lambda rollouts: mean_errors(job.tasks(rollouts), done))
    spent = job.trajectory_steps + sum(map(job.cost_steps, tasks))
    return as_graph(job, findings, first.description, spent)


def _job_of(work: WorkDir) -> ProfileJob:
    """The job that a work directory is of."""
    found = work.description
    if found.get("mode") != "exact" or "actions" in found:
        raise JobError(f"{work.path} holds no shard of an exact profile. Its graph: dit-accel profile, with its job.")
    try:
        batches = tuple(Batch(tuple(batch["prompts"]), batch["seed"]) for batch in found["batches"])
        how = {name: found[name] for name in ("max_segment", "forecasts")}
        for batch in batches:  # refuses what no job can be
            checked_job(
                batch.prompts,
                num_inference_steps=found["num_inference_steps"],
                seeds=(batch.seed,),
                **how,
                **found["inputs"],
            )
        job = ProfileJob(
            batches,
            found["num_inference_steps"],
            how["max_segment"],
            found["inputs"],
            forecasts=tuple(how["forecasts"]),
        )
    except (KeyError, TypeError, ConfigError) as problem:
        raise JobError(f"{work.path / 'job.json'} is damaged: {problem!r:.300}. Use a fresh workdir.") from None
    if not batches:
        raise JobError(f"{work.path / 'job.json'} is damaged: it has no batches. Use a fresh workdir.")
    return job


def _results(works: Iterable[WorkDir], job: ProfileJob) -> dict[Task, list[float]]:
    """What all of them measured."""
    done: dict[Task, list[float]] = {}
    origin: dict[Task, WorkDir] = {}
    for work in works:
        for task, errors in work.results(job.batch_sizes).items():
            if done.setdefault(task, errors) != errors:
                raise JobError(
                    f"{origin[task].path} and {work.path} disagree about {task[1]} of batch {task[0]}: "
                    f"{quoted(done[task])} and {quoted(errors)}. Measure one of them again, on the same kind of "
                    "machine and with as many threads."
                )
            origin.setdefault(task, work)
    return done


def _trajectory(works: Iterable[WorkDir], batch: int) -> Path | None:
    """The full run of a batch, which must be the same wherever it was recorded; None if it was not."""
    paths = [path for work in works if (path := work.trajectory(batch)).exists()]
    digests = {_digest(path): path for path in paths}
    if len(digests) > 1:
        raise JobError(
            f"The full run of batch {batch} was recorded differently in {' and '.join(map(str, digests.values()))}. "
            "Measure all shards on the same kind of machine and with as many threads, or into one workdir."
        )
    return paths[0] if paths else None


def _digest(path: Path) -> str:
    if not path.is_file():  # a pipe would be read for ever
        raise JobError(f"{path} is not a regular file. Delete it, and run the shard again.")
    return sha256(path)


def _what_is_missing(works: Iterable[WorkDir], job: ProfileJob, done: Mapping[Task, list[float]]) -> str:
    """Says which shards have to be run, or run again."""
    missing = {task for task in job.tasks(job.rollouts()) if task not in done}
    counts = {shard.count for work in works for shard in shards_in(work.path)}
    if not missing or len(counts) != 1:
        return (
            f"{len(missing)} rollouts or their full runs are missing, and the work directories do not say of which "
            "shard. Give those of all shards, or finish the job in one of them: dit-accel profile, with its job."
        )
    (count,) = counts
    shards = [f"{index}/{count}" for index in range(count) if missing & set(Shard(index, count).tasks(job))]
    return (
        f"{len(missing)} rollouts are missing, of shard {', '.join(shards)}. Run these (again: what they have done is "
        "kept), or give their work directories, too."
    )
