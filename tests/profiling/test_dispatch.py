"""`Dispatch`: order, states, losses; and that the schedule it makes loses and repeats nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dit_accel.profiling.dispatch import Dispatch


def filled(num_states: int, tasks_each: int, max_attempts: int = 3) -> Dispatch[str, int]:
    dispatch: Dispatch[str, int] = Dispatch(max_attempts)
    for state in range(num_states):
        for number in range(tasks_each):
            dispatch.submit(f"{state}.{number}", state)
    return dispatch


def test_a_worker_stays_with_its_state_and_others_take_others() -> None:
    dispatch = filled(2, 3)
    assert [dispatch.next_for(worker) for worker in (0, 1)] == ["0.0", "1.0"]
    assert dispatch.finished(1) == "1.0" and dispatch.next_for(1) == "1.1"
    assert dispatch.finished(0) == "0.0" and dispatch.next_for(0) == "0.1"
    assert dispatch.num_open == 4


def test_a_worker_whose_state_is_done_helps_where_most_is_left() -> None:
    dispatch = filled(3, 1)
    for number in range(1, 6):
        dispatch.submit(f"2.{number}", 2)
    assert [dispatch.next_for(worker) for worker in range(4)] == ["2.0", "2.1", "2.2", "0.0"]
    found = []
    for _ in range(2):
        dispatch.finished(3)
        found.append(dispatch.next_for(3))
    assert found == ["1.0", "2.3"]


def test_the_task_of_a_lost_worker_is_next() -> None:
    dispatch = filled(1, 3)
    dispatch.next_for(0)
    dispatch.next_for(1)
    assert dispatch.lost(0) is None
    assert dispatch.next_for(2) == "0.0"
    assert dispatch.lost(7) is None, "one that ran nothing"
    assert dispatch.num_open == 3


def test_a_task_that_costs_too_many_workers_is_given_up() -> None:
    dispatch = filled(1, 2, max_attempts=3)
    found = []
    for worker in range(3):
        assert dispatch.next_for(worker) == "0.0"
        found.append(dispatch.lost(worker))
    assert found == [None, None, "0.0"]
    assert dispatch.next_for(9) == "0.1" and dispatch.finished(9) == "0.1"
    assert dispatch.num_open == 0 and dispatch.next_for(9) is None


def test_drain_forgets_everything() -> None:
    dispatch = filled(1, 2)
    dispatch.next_for(0)
    assert dispatch.drain() == ["0.0", "0.1"]
    assert dispatch.num_open == 0 and dispatch.next_for(1) is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_every_task_is_finished_once(seed: int) -> None:
    chance = random.Random(seed)
    dispatch = filled(chance.randint(1, 5), chance.randint(1, 8), max_attempts=10**6)
    workers, busy, next_worker = set(range(3)), set(), 3
    done: Counter[str] = Counter()
    total = dispatch.num_open
    while dispatch.num_open:
        busy |= {worker for worker in workers - busy if dispatch.next_for(worker) is not None}
        worker = chance.choice(sorted(busy))
        busy.remove(worker)
        if chance.random() < 0.3:
            dispatch.lost(worker)
            workers = workers - {worker} | {next_worker}
            next_worker += 1
        else:
            done[dispatch.finished(worker)] += 1
    assert len(done) == total and set(done.values()) == {1}
