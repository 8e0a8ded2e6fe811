"""`Measurement`: runs what a search asks for, here or on an executor, and makes the graph of what it finds."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from ..errors import JobError
from .action_search import action_search
from .error_graph import ErrorGraph
from .request import ProfileJob
from .residual_model import ResidualModel
from .rollout import BatchRunner, Rollout, RolloutSettings, read_model
from .search import SEARCHES, Findings
from .timing import measure_step_times
from .workdir import Task, WorkDir

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


Result = TypeVar("Result")


class TaskRunner:
    """Rolls out edges on one pipeline, and keeps the batch loaded between them."""

    def __init__(self, pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir) -> None:
        self._pipe, self._job, self._work = pipe, job, work
        self._runners: dict[int, BatchRunner] = {}
        self._settings: RolloutSettings | None = None

    def run(self, task: Task) -> None:
        """Roll out one edge and make the result durable."""
        batch, rollout = task
        if self._settings is None:
            model = trajectory_model(self._job, self._work)
            blocks, config = self._job.partial_blocks or (1, 0), self._job.sparse_config
            self._settings = RolloutSettings(model, blocks, config)
        self._work.write(task, self.runner(batch).measure(rollout, self._settings))

    def runner(self, batch: int) -> BatchRunner:
        """The batch, loaded."""
        if batch not in self._runners:
            self._runners.clear()
            runner = BatchRunner(self._pipe, self._job.batches[batch], self._job.num_steps, self._job.inputs)
            runner.load(self._work.trajectory(batch))
            self._runners[batch] = runner
        return self._runners[batch]


def trajectory_model(job: ProfileJob, work: WorkDir) -> ResidualModel | None:
    """What the recorded trajectories tell, if their residuals can be compared."""
    return read_model(work.trajectory(batch) for batch in range(len(job.batches)))


class Measurement:
    """One job at work: trajectories first, then what its search asks for. A context manager around a progress bar."""

    def __init__(
        self, pipe: DiffusionPipeline, job: ProfileJob, work: WorkDir, executor: Executor | None, progress: bool
    ) -> None:
        self._pipe, self._job, self._work, self._executor = pipe, job, work, executor
        self._runner = TaskRunner(pipe, job, work)
        self._done = work.results(job.batch_sizes)
        self._spent_steps = job.trajectory_steps
        self._bar = tqdm(
            total=job.trajectory_steps, unit="step", disable=not progress, desc="profiling", smoothing=0.05
        )

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def graph(self, description: Mapping[str, Any]) -> ErrorGraph:
        """Run the job to its end."""
        for index, batch in enumerate(self._job.batches):
            path = self._work.trajectory(index)
            if not path.exists():
                BatchRunner(self._pipe, batch, self._job.num_steps, self._job.inputs).record(path)
            self._bar.update(self._job.num_steps * len(batch.prompts))
        model = trajectory_model(self._job, self._work)
        graph = self._as_graph(self._followed(SEARCHES[self._job.mode](self._job, model)), description)
        if self._job.has_times:
            graph = graph.with_actions(self._followed(action_search(self._job, graph, self._step_times())))
            graph.rollout_steps = self._spent_steps
        return graph

    def _followed(self, search: Generator[Sequence[Rollout], Mapping[Rollout, float], Result]) -> Result:
        """Run what a search asks for, until it has its result."""
        try:
            wanted = next(search)
            while True:
                wanted = search.send(self._measured(wanted))
        except StopIteration as end:
            result: Result = end.value
            return result

    def _step_times(self) -> dict[str, float]:
        """Measured once a work directory: a job that is run again must decide as it did before."""
        times = self._work.step_times()
        if times is None:
            times = measure_step_times(self._pipe, self._job)
            self._work.write_step_times(times)
        return times

    def _measured(self, rollouts: Sequence[Rollout]) -> dict[Rollout, float]:
        """The mean over all videos of the error of every rollout."""
        tasks = self._job.tasks(rollouts)
        self._spent_steps += sum(map(self._job.cost_steps, tasks))
        self._bar.total = self._spent_steps
        missing = [task for task in tasks if task not in self._done]
        self._bar.update(sum(self._job.cost_steps(task) for task in tasks if task in self._done))
        for task in self._run(missing):
            self._bar.update(self._job.cost_steps(task))
        if missing:
            self._done = self._work.results(self._job.batch_sizes)
        errors: dict[Rollout, list[float]] = {}
        for task in tasks:
            errors.setdefault(task[1], []).extend(self._done[task])
        return {rollout: sum(found) / len(found) for rollout, found in errors.items()}

    def _run(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Run tasks, here or on the executor; yields each when it is done."""
        if self._executor is not None:
            yield from self._run_elsewhere(self._executor, tasks)
            return
        for task in tasks:
            self._runner.run(task)
            yield task

    def _run_elsewhere(self, executor: Executor, tasks: Sequence[Task]) -> Iterator[Task]:
        from .distributed import run_in_worker

        futures = {}
        try:
            futures = {executor.submit(run_in_worker, self._job, self._work, task): task for task in tasks}
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

    def _as_graph(self, findings: Findings, description: Mapping[str, Any]) -> ErrorGraph:
        best = findings.best()
        return ErrorGraph(
            self._job.num_steps,
            {edge: error for edge, (_, error) in best.items()},
            rollout_steps=self._spent_steps,
            provenance=description,
            forecasts={edge: rollout.action for edge, (rollout, _) in best.items() if rollout.action != "hold"},
            estimated=[edge for edge, (rollout, _) in best.items() if rollout not in findings.measured],
            model=findings.model,
        )
