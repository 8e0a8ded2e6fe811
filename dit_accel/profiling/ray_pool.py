"""Rollouts on a Ray cluster: an executor whose workers are actors that each hold one pipeline.

Nothing but Ray is shared: a recorded trajectory goes through the object store, once to each node that needs it, and
results come back to this process, which alone writes the work directory. So no file system has to be shared, and a
file that lies on another node by chance is never taken for a trajectory.

`Dispatch` decides which actor does what. One that is lost, or its node, is replaced; its task alone is done again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import JobError, MissingPackageError
from .dispatch import Dispatch
from .distributed import RemoteExecutor, WorkersLost, start_worker

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MAX_ATTEMPTS = 4  # workers that may be lost over one task, or while they load the pipeline, one after the other
_POLL_SECONDS = 0.2  # until a task that is new, or a worker that is, gets its turn while others run
_RESOURCES_SECONDS = 2.0  # between looks at what the cluster has


@contextmanager
def ray_pool(
    load_pipeline: Callable[[], DiffusionPipeline],
    *,
    address: str = "local",
    num_workers: int | None = None,
    gpus_per_worker: float = 0.0,
) -> Iterator[RayExecutor]:
    """An executor for `dit_accel.profile` on a Ray cluster, for the time of a ``with`` block.

    Args:
        load_pipeline: a picklable function, called once in each worker; what it needs is on every node.
        address: ``"local"``: a cluster of this machine's own, for this time; ``"auto"``: the one that runs here, or
            that RAY_ADDRESS names; otherwise the address of one. If Ray is connected already, that is used.
        num_workers: actors; those that find no place wait for a node. None: as many as the cluster has room for, also
            when it grows.
        gpus_per_worker: that Ray sets aside for each; a part of one lets workers share it. 0: workers compute on a CPU
            core each.

    Raises:
        MissingPackageError: ray is not installed.
        JobError: there is no cluster at the address, or it has no room for one worker.
    """
    ray = _ray()
    if num_workers is not None and num_workers < 1:
        raise JobError(f"workers must be at least 1, got {num_workers}.")
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(address)
    try:
        with RayExecutor(load_pipeline, num_workers, gpus_per_worker) as executor:
            yield executor
    finally:
        if is_ours:
            ray.shutdown()


@dataclass(eq=False)
class _Call:
    """A function to be called on a worker."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any] = field(default_factory=Future)

    def begins(self) -> bool:
        """Whether it runs now, perhaps not for the first time; else it was cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


@dataclass(eq=False)
class _Worker:
    """An actor: ``outstanding`` is what it is at, None if it waits for a task."""

    actor: Any
    outstanding: Any
    is_started: bool = False

    def end(self) -> None:
        """Whatever it is at."""
        _ray().kill(self.actor)


class RayExecutor(RemoteExecutor):
    """Actors that each hold one pipeline. Made by `ray_pool`; all of Ray is used by one thread of its own.

    Leaving its ``with`` block after an error, an interruption among them, ends what the actors are at.
    """

    def __init__(
        self, load_pipeline: Callable[[], DiffusionPipeline], num_workers: int | None, gpus_per_worker: float
    ) -> None:
        self._load_pipeline, self._num_workers, self._gpus = load_pipeline, num_workers, gpus_per_worker
        self._room, self._next_look = 0, 0.0  # what the cluster had when it was looked at, and when it will be again
        if self._limit() == 0:
            raise JobError(
                f"The Ray cluster has no {'GPU' if gpus_per_worker else 'CPU'} for a worker. Add nodes, or say how "
                "many workers are to wait for them."
            )
        self._dispatch: Dispatch[_Call, _Worker] = Dispatch(MAX_ATTEMPTS)
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._shared: dict[tuple[Path, int], Any] = {}
        self._lock, self._news = threading.Lock(), threading.Event()  # the lock is of the dispatch and of these two:
        self._is_closed = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="ray_pool", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Call a function on the next worker that is free, rather one that used the same shared file last.

        Raises:
            RuntimeError: the executor is shut down.
        """
        assert not named, "the arguments of a task have an order"
        call = _Call(function, arguments)
        with self._lock:
            if self._problem is not None or self._is_closed:
                raise self._problem or RuntimeError("The executor is shut down.")
            self._dispatch.submit(
                call, next((value for value in arguments if isinstance(value, _ray().ObjectRef)), None)
            )
        self._news.set()
        return call.future

    def share(self, path: Path) -> Any:
        """A reference to the bytes of a file, which go to the object store once."""
        import numpy as np

        key = path, path.stat().st_mtime_ns
        if key not in self._shared:
            self._shared[key] = _ray().put(np.fromfile(path, np.uint8))
        return self._shared[key]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end the workers when all are done, or at once with ``cancel_futures``."""
        with self._lock:
            self._is_closed = True
            if cancel_futures:
                self._problem = self._problem or RuntimeError("The executor is shut down.")
        self._news.set()
        if wait:
            self._thread.join()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _serve(self) -> None:
        try:
            while self._problem is None and not (self._is_closed and self._dispatch.num_open == 0):
                self._start_workers()
                for worker in self._workers:
                    self._give_task(worker)
                self._look_at_one()
        except Exception as problem:
            with self._lock:
                self._problem = (
                    problem if isinstance(problem, JobError) else JobError(f"The Ray cluster has failed: {problem}")
                )
        with self._lock:  # or these futures would never be done
            for call in self._dispatch.drain():
                if call.begins():
                    call.future.set_exception(self._problem)
        for worker in self._workers:
            worker.end()

    def _limit(self) -> int:
        """How many workers there may be now."""
        if self._num_workers is not None:
            return self._num_workers
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _RESOURCES_SECONDS
            kind, share = ("GPU", self._gpus) if self._gpus else ("CPU", 1.0)
            self._room = int(_ray().cluster_resources().get(kind, 0.0) / share)
        return self._room

    def _start_workers(self) -> None:
        """As many as there is room and work for."""
        for _ in range(min(self._limit(), self._dispatch.num_open) - len(self._workers)):
            actor = _ray().remote(_Actor).options(num_cpus=1, num_gpus=self._gpus, max_restarts=0).remote()
            self._workers.append(_Worker(actor, actor.start.remote(self._load_pipeline)))

    def _give_task(self, worker: _Worker) -> None:
        while worker.outstanding is None:
            with self._lock:
                call = self._dispatch.next_for(worker)
            if call is None:
                return
            if call.begins():
                worker.outstanding = worker.actor.run.remote(call.function, *call.arguments)
            else:
                self._finished(worker)

    def _look_at_one(self) -> None:
        """Take up what a worker has done, if one has; else wait a moment."""
        outstanding = {worker.outstanding: worker for worker in self._workers if worker.outstanding is not None}
        if not outstanding:
            self._news.wait(_POLL_SECONDS)
            self._news.clear()
            return
        ready, _ = _ray().wait(list(outstanding), num_returns=1, timeout=_POLL_SECONDS)
        for reference in ready:
            self._take(outstanding[reference])

    def _take(self, worker: _Worker) -> None:
        """The result of a worker, its error, or its end."""
        ray = _ray()
        try:
            result = ray.get(worker.outstanding)
        except ray.exceptions.RayTaskError as problem:
            if not worker.is_started:
                raise JobError(f"A worker could not load the pipeline: {problem.cause}") from None
            self._finished(worker).future.set_exception(problem.cause)
        except ray.exceptions.RayError as problem:
            self._replace(worker, problem)
        else:
            if worker.is_started:
                self._finished(worker).future.set_result(result)
            else:
                worker.outstanding, worker.is_started, self._failed_starts = None, True, 0

    def _finished(self, worker: _Worker) -> _Call:
        worker.outstanding = None
        with self._lock:
            return self._dispatch.finished(worker)

    def _replace(self, worker: _Worker, problem: Exception) -> None:
        """A worker is lost: another one is started in the next round, and its task is done again."""
        self._workers.remove(worker)
        worker.end()  # one that cannot be reached may still run
        with self._lock:
            given_up = self._dispatch.lost(worker)
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        if given_up is not None:
            given_up.future.set_exception(
                WorkersLost(f"{MAX_ATTEMPTS} workers ended, one after the other, while they ran it ({reason}).")
            )
        if not worker.is_started:
            self._failed_starts += 1
            if self._failed_starts == MAX_ATTEMPTS:
                raise JobError(
                    f"{MAX_ATTEMPTS} workers ended, one after the other, while they loaded the pipeline ({reason}). "
                    "Is there memory for it? Use fewer workers."
                )


class _Actor:
    """What runs in a worker process; its pipeline is that of the process."""

    def start(self, load_pipeline: Callable[[], DiffusionPipeline]) -> None:
        """Load the pipeline; not when it is created, so that what goes wrong is an error and no lost worker."""
        start_worker(load_pipeline)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function; shared files among its arguments arrive as arrays."""
        return function(*arguments)


def _connect(address: str) -> None:
    """Start or find the cluster."""
    local = {"include_dashboard": False} if address == "local" else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    try:
        _ray().init(
            address, **local, log_to_driver=False, logging_level=logging.ERROR
        )  # else lines would tear the bar
    except (ConnectionError, ValueError, RuntimeError, OSError) as problem:
        raise JobError(
            f"There is no Ray cluster at {address!r}: {' '.join(str(problem).split())} Start one with 'ray start "
            "--head', or use 'local'."
        ) from None


def _ray() -> Any:
    """The library, which is optional and starts nothing when it is imported."""
    try:
        import ray
    except ImportError:
        raise MissingPackageError('Profiling on a cluster needs ray. pip install "dit-accel[ray]"') from None
    return ray
