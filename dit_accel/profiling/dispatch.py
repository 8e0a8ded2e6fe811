"""`Dispatch`: which worker does which task next, and what becomes of the task of a worker that is lost.

It knows no process, no pipeline and no clock:
`ray_pool` drives it with actors, ``benchmarks/profile_scale.py`` with times.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Task = TypeVar("Task", bound=Hashable)
Worker = TypeVar("Worker", bound=Hashable)


class Dispatch(Generic[Task, Worker]):
    """Tasks that wait and tasks that run.

    A task may need a state, which a worker has to fetch unless it used it last. So a worker goes on with its state as
    long as tasks of it wait; then it takes the state with the most waiting tasks for each worker that has it. Tasks of
    one state leave in the order in which they came.

    Args:
        max_attempts: workers that may be lost over one task before it is given up, at least 1.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._waiting: dict[Hashable, deque[Task]] = {}
        self._running: dict[Worker, tuple[Task, Hashable]] = {}
        self._held: dict[Worker, Hashable] = {}
        self._losses: Counter[Task] = Counter()

    @property
    def num_open(self) -> int:
        """Tasks that wait or run."""
        return len(self._running) + sum(map(len, self._waiting.values()))

    def submit(self, task: Task, state: Hashable) -> None:
        """Add a task, all different, that needs ``state``."""
        self._waiting.setdefault(state, deque()).append(task)

    def next_for(self, worker: Worker) -> Task | None:
        """Give an idle worker its next task; None if no task waits."""
        if not self._waiting:
            return None
        state = self._held.get(worker)
        if state not in self._waiting:
            workers = Counter(self._held.values())
            state = max(self._waiting, key=lambda state: len(self._waiting[state]) / (1 + workers[state]))
        task = self._waiting[state].popleft()
        if not self._waiting[state]:
            del self._waiting[state]
        self._running[worker], self._held[worker] = (task, state), state
        return task

    def finished(self, worker: Worker) -> Task:
        """The worker is idle again; the task that it ran."""
        return self._running.pop(worker)[0]

    def lost(self, worker: Worker) -> Task | None:
        """The worker is no more, and its task, if it ran one, is the next of its state; returned if it is given up."""
        self._held.pop(worker, None)
        if worker not in self._running:
            return None
        task, state = self._running.pop(worker)
        self._losses[task] += 1
        if self._losses[task] >= self._max_attempts:
            return task
        self._waiting.setdefault(state, deque()).appendleft(task)
        return None

    def drain(self) -> list[Task]:
        """Forget every task that runs or waits, and return them."""
        waiting = [task for tasks in self._waiting.values() for task in tasks]
        open_tasks = [*(task for task, _ in self._running.values()), *waiting]
        self._running.clear()
        self._waiting.clear()
        return open_tasks
