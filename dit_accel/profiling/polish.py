"""`polish`: improve a planned schedule by whole runs, where edges that are measured one by one no longer add up."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .._diffusers import denoisers_of
from ..api import refuse_accelerated
from ..documents import quoted
from ..errors import ConfigError, JobError
from ..registry import find_spec
from ..schedule import CacheSchedule
from .error_graph import ErrorGraph
from .job import describe_job, quiet
from .planner import OF_PATH, forecast_weights, path_provenance, predicted_error
from .request import ProfileJob
from .residual_model import SLOPE
from .task_runner import TaskRunner
from .workdir import WorkDir

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SMALLEST = 1e-12  # an error of zero has no logarithm


def polish(
    pipe: DiffusionPipeline,
    job: ProfileJob,
    graph: ErrorGraph,
    schedule: CacheSchedule,
    *,
    rollouts: int,
    workdir: str | Path | None = None,
    progress: bool = True,
) -> CacheSchedule:
    """Hill climbing over schedules of the same budget: one compute step moves, the better of the two stays.

    Moves that the graph's model predicts to be best are tried first. At last the forecast ``"slope"`` is tried for all
    edges, which goes on along the line through the last two residuals; if it is better, moves go on with it. Tried is
    a whole run on every batch of the profile; the error is the mean L1 of its final latents, geometrically averaged
    over the videos: PSNR goes by the logarithm, and no video counts more for being hard.

    Args:
        pipe: the pipeline that was profiled.
        job: what was profiled; its batches are run.
        graph: the profile, with its model.
        schedule: where to start; without partial and sparse steps.
        rollouts: schedules that are tried, besides the given one; 0 returns it. More: a better one, at the cost of
            ``budget`` full steps a video each.
        workdir: that of the profile. Keeps every result, so that a killed polish continues.
        progress: show a bar.

    Returns:
        The best schedule found, with ``polish`` (rollouts, errors before and after) in its provenance.

    Raises:
        ConfigError: the schedule or ``rollouts`` cannot be used.
        AlreadyAcceleratedError: the pipeline is accelerated; its full run would not be one.
        JobError: the workdir is of another job, or a run of the schedule diverges.
    """
    check_rollouts(rollouts)
    if rollouts == 0:
        return schedule
    if schedule.partial is not None or schedule.sparse is not None or graph.model is None:
        raise ConfigError("polish moves compute steps only, and needs the graph's model: no partial or sparse steps.")
    if not schedule.num_steps == graph.num_steps == job.num_steps:
        raise ConfigError(
            f"polish needs one number of steps, got {schedule.num_steps} of the schedule, {graph.num_steps} of the "
            f"graph and {job.num_steps} of the job."
        )
    refuse_accelerated(pipe, denoisers_of(pipe, find_spec(pipe).denoisers))
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory())
        work = WorkDir(Path(workdir or temporary), describe_job(pipe, job))
        stack.enter_context(work.locked())
        stack.enter_context(quiet(pipe))
        bar: tqdm[Any] = stack.enter_context(
            tqdm(total=rollouts + 1, unit="run", disable=not progress, desc="polishing")
        )
        trials = _Trials(pipe, job, work, bar)
        return _climbed(graph, schedule, rollouts, trials)


def check_rollouts(rollouts: object) -> None:
    """Raise `ConfigError` unless ``rollouts`` is a count."""
    if type(rollouts) is not int or rollouts < 0:
        raise ConfigError(f"rollouts must be an integer of at least 0, got {quoted(rollouts)}.")


class _Trials:
    """Errors of whole schedules, each measured once a work directory."""

    def __init__(self, pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, bar: tqdm[Any]) -> None:
        self._runner, self._job, self._work, self._bar = TaskRunner(pipe, job), job, work, bar
        for batch in range(len(job.batches)):
            if not work.trajectory(batch).exists():
                self._runner.record(batch, work.trajectory(batch))

    def error(self, schedule: CacheSchedule) -> float:
        """Geometric mean over all videos. A schedule whose run diverges is worse than any other."""
        weights = sorted((step, *found) for step, found in schedule.forecasts.items())
        text = f"{schedule.num_steps} {schedule.compute_steps} {weights}"
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        errors = self._work.trial(key, sum(self._job.batch_sizes))
        if errors is None:
            try:
                runs = [
                    self._runner.runner(batch, self._work.trajectory(batch)).errors_of(schedule)
                    for batch in range(len(self._job.batches))
                ]
            except JobError:
                return float("inf")
            errors = [error for run in runs for error in run]
            self._work.write_trial(key, errors)
        self._bar.update()
        return math.exp(sum(math.log(max(error, _SMALLEST)) for error in errors) / len(errors))


def _climbed(graph: ErrorGraph, schedule: CacheSchedule, rollouts: int, trials: _Trials) -> CacheSchedule:
    best, before = schedule, trials.error(schedule)
    if not math.isfinite(before):
        raise JobError(f"A run of {schedule.name!r} ends in NaN or infinity, so it cannot be polished.")
    spare = int(_sloping(graph, schedule).forecasts != schedule.forecasts)  # one rollout, for the slope
    best, least, left = _moved(graph, (best, before), rollouts - spare, None, trials)
    sloping, left, forecast = _sloping(graph, best), left + spare, None
    if left and sloping.forecasts != best.forecasts:
        left, error = left - 1, trials.error(sloping)
        if error < least:
            forecast = SLOPE
            best, least, left = _moved(graph, (sloping, error), left, forecast, trials)
    note = {"rollouts": rollouts - left, "error_before": before, "error_after": least}
    known = {key: value for key, value in schedule.provenance.items() if key not in OF_PATH}
    provenance = {**known, **path_provenance(graph, best.compute_steps, forecast), "polish": note}
    return CacheSchedule(graph.num_steps, best.compute_steps, provenance, best.forecasts)


def _moved(
    graph: ErrorGraph, start: tuple[CacheSchedule, float], left: int, forecast: str | None, trials: _Trials
) -> tuple[CacheSchedule, float, int]:
    """The best schedule by moves from ``start``, its error, and how many trials of ``left`` are left."""
    best, least = start
    tried = {best.compute_steps}
    while left:
        candidates = sorted(
            (path for path in set(_neighbours(best, graph)) if path not in tried),
            key=lambda path: (predicted_error(graph, path, forecast), path),
        )
        improved = False
        for path in candidates[:left]:
            tried.add(path)
            left -= 1
            candidate = _schedule(graph, path, forecast)
            error = trials.error(candidate)
            if error < least:
                best, least, improved = candidate, error, True
                break
        if not improved:
            break
    return best, least, left


def _schedule(graph: ErrorGraph, path: tuple[int, ...], forecast: str | None) -> CacheSchedule:
    return CacheSchedule(graph.num_steps, path, {}, forecast_weights(graph, path, forecast))


def _sloping(graph: ErrorGraph, schedule: CacheSchedule) -> CacheSchedule:
    return _schedule(graph, schedule.compute_steps, SLOPE)


def _neighbours(schedule: CacheSchedule, graph: ErrorGraph) -> Iterator[tuple[int, ...]]:
    """Paths of the graph in which one compute step between the first and the last is somewhere else."""
    steps = schedule.compute_steps
    for moved in steps[1:-1]:
        rest = set(steps) - {moved}
        for place in set(range(1, steps[-1])) - set(steps):
            path = tuple(sorted(rest | {place}))
            if all(graph.error(i, j) is not None for i, j in pairwise(path)):
                yield path
