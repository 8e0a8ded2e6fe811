"""`Measurement`: runs what a search asks for, here or on an executor, and makes the graph of what it finds."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from ..errors import JobError
from .action_search import action_search
from .error_graph import ErrorGraph
from .request import ProfileJob
from .residual_model import ResidualModel
from .rollout import Rollout, read_model
from .search import SEARCHES, Findings
from .task_runner import TaskRunner, rollout_settings
from .timing import measure_step_times
from .workdir import Task, WorkDir

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


Key = TypeVar("Key")
Result = TypeVar("Result")


def trajectory_model(job: ProfileJob, work: WorkDir) -> ResidualModel | None:
    """What the recorded trajectories tell, if their residuals can be compared."""
    return read_model(work.trajectory(batch) for batch in range(len(job.batches)))


def follow(
    search: Generator[Sequence[Rollout], Mapping[Rollout, float], Result],
    measured: Callable[[Sequence[Rollout]], Mapping[Rollout, float]],
) -> Result:
    """Have measured what a search asks for, until it has its result."""
    try:
        wanted = next(search)
        while True:
            wanted = search.send(measured(wanted))
    except StopIteration as end:
        result: Result = end.value
        return result


def mean_errors(tasks: Iterable[Task], done: Mapping[Task, Sequence[float]]) -> dict[Rollout, float]:
    """The mean over all videos of the error of every rollout of ``tasks``."""
    errors: dict[Rollout, list[float]] = {}
    for task in tasks:
        errors.setdefault(task[1], []).extend(done[task])
    return {rollout: sum(found) / len(found) for rollout, found in errors.items()}


def as_graph(job: ProfileJob, findings: Findings, description: Mapping[str, Any], spent_steps: int) -> ErrorGraph:
    """What a search found, as a graph that says what was measured and what it took."""
    best = findings.best()
    return ErrorGraph(
        job.num_steps,
        {edge: error for edge, (_, error) in best.items()},
        rollout_steps=spent_steps,
        provenance=description,
        forecasts={edge: rollout.action for edge, (rollout, _) in best.items() if rollout.action != "hold"},
        estimated=[edge for edge, (rollout, _) in best.items() if rollout not in findings.measured],
        model=findings.model,
    )


class Measurement:
    """One job at work: trajectories first, then what its search asks for. A context manager around a progress bar."""

    def __init__(
        self, pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, executor: Executor | None, progress: bool
    ) -> None:
        self._pipe, self._job, self._work, self._executor = pipe, job, work, executor
        self._runner = TaskRunner(pipe, job)
        self._model: ResidualModel | None = None
        self._done = work.results(job.batch_sizes)
        self._spent_steps = 0
        self._bar = tqdm(total=0, unit="step", disable=not progress, desc="profiling", smoothing=0.05)

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def graph(self) -> ErrorGraph:
        """Run the job to its end."""
        self._record(range(len(self._job.batches)))
        self._model = trajectory_model(self._job, self._work)
        findings = follow(SEARCHES[self._job.mode](self._job, self._model), self._measured)
        graph = as_graph(self._job, findings, self._work.description, self._spent_steps)
        if self._job.has_times:
            graph = graph.with_actions(follow(action_search(self._job, graph, self._step_times()), self._measured))
            graph.rollout_steps = self._spent_steps
        return graph

    def share(self, tasks: Sequence[Task]) -> None:
        """Run these tasks of an exact job, with the trajectories that they need; those that are done are kept."""
        needs_model = any(rollout.action != "hold" for _, rollout in tasks)
        self._record(range(len(self._job.batches)) if needs_model else sorted({batch for batch, _ in tasks}))
        self._model = trajectory_model(self._job, self._work) if needs_model else None
        self._finish(tasks)

    def _record(self, batches: Iterable[int]) -> None:
        """Have the full runs of these batches."""
        cost = {batch: self._job.num_steps * self._job.batch_sizes[batch] for batch in batches}
        self._expect(sum(cost.values()))
        missing = [batch for batch in cost if not self._work.trajectory(batch).exists()]
        self._bar.update(sum(cost[batch] for batch in cost if batch not in missing))
        for batch in self._record_here(missing) if self._executor is None else self._record_elsewhere(missing):
            self._bar.update(cost[batch])

    def _record_here(self, batches: Iterable[int]) -> Iterator[int]:
        for batch in batches:
            with self._work.locked(f"lock-trajectory-{batch:03d}", wait=True):  # another shard may be at it
                if not self._work.trajectory(batch).exists():
                    self._runner.record(batch, self._work.trajectory(batch))
            yield batch

    def _record_elsewhere(self, batches: Iterable[int]) -> Iterator[int]:
        from .distributed import record_in_worker

        for batch, data in self._completed({batch: (record_in_worker, self._job, batch) for batch in batches}):
            self._work.write_trajectory(batch, data)
            yield batch

    def _step_times(self) -> dict[str, float]:
        """Measured once a work directory: a job that is run again must decide as it did before."""
        from .distributed import RemoteExecutor, times_in_worker

        times = self._work.step_times()
        if times is None:
            if isinstance(self._executor, RemoteExecutor):  # this process need not have the device
                ((_, times),) = self._completed({"step times": (times_in_worker, self._job)})
            else:
                times = measure_step_times(self._pipe, self._job)
            self._work.write_step_times(times)
        return times

    def _measured(self, rollouts: Sequence[Rollout]) -> dict[Rollout, float]:
        """The mean over all videos of the error of every rollout."""
        tasks = self._job.tasks(rollouts)
        self._finish(tasks)
        return mean_errors(tasks, self._done)

    def _finish(self, tasks: Sequence[Task]) -> None:
        """Run the tasks that are not done yet; each result is durable before the next one is looked at."""
        self._expect(sum(map(self._job.cost_steps, tasks)))
        missing = [task for task in tasks if task not in self._done]
        self._bar.update(sum(self._job.cost_steps(task) for task in tasks if task in self._done))
        for task, errors in self._run_here(missing) if self._executor is None else self._run_elsewhere(missing):
            self._work.write(task, errors)
            self._bar.update(self._job.cost_steps(task))
        if missing:
            self._done = self._work.results(self._job.batch_sizes)

    def _expect(self, steps: int) -> None:
        self._spent_steps += steps
        self._bar.total = self._spent_steps

    def _run_here(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[float]]]:
        settings = rollout_settings(self._job, self._model)
        for task in tasks:
            yield task, self._runner.run(task, self._work.trajectory(task[0]), settings)

    def _run_elsewhere(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, list[float]]]:
        from .distributed import RemoteExecutor, run_in_worker

        settings, name = rollout_settings(self._job, self._model), uuid.uuid4().hex
        states = {batch: self._work.trajectory(batch) for batch in dict.fromkeys(batch for batch, _ in tasks)}
        if isinstance(self._executor, RemoteExecutor):
            states = {batch: self._executor.share(path) for batch, path in states.items()}
        yield from self._completed(
            {task: (run_in_worker, name, self._job, settings, states[task[0]], task) for task in tasks}
        )

    def _completed(self, calls: Mapping[Key, tuple[Any, ...]]) -> Iterator[tuple[Key, Any]]:
        """Submit calls to the executor; yields each with its result when it is done."""
        from .distributed import WorkersLost

        assert self._executor is not None
        futures = {}
        try:
            futures = {self._executor.submit(*call): key for key, call in calls.items()}
            for future in as_completed(futures):
                key = futures[future]
                yield key, future.result()
        except WorkersLost as problem:
            raise JobError(f"{key} cannot be done: {problem} What is done is kept; run again to try again.") from None
        except BrokenExecutor:
            raise JobError(
                "A worker process ended: it could not load the pipeline, or ran out of memory (see its output above). "
                "What is done is kept; run again, with fewer workers."
            ) from None
        finally:
            for future in futures:  # else closing the pool would first finish the whole job
                future.cancel()
