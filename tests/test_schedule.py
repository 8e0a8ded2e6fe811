"""`CacheSchedule`: which steps are valid, and uniform schedules."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.errors import DitAccelError, ScheduleError
from dit_accel.schedule import MAX_STEPS, CacheSchedule

HUGE = 10**5000  # Python refuses to print it


def test_steps_are_kept() -> None:
    schedule = CacheSchedule(10, [0, 4, 9])
    assert schedule.compute_steps == (0, 4, 9) and schedule.budget == 3
    assert schedule.name == "3 of 10 steps"
    assert CacheSchedule(2, (0,)).budget == 1
    assert CacheSchedule(MAX_STEPS, (0, MAX_STEPS - 1)).num_steps == MAX_STEPS


@pytest.mark.parametrize(
    ("num_steps", "compute_steps", "words"),
    [
        (1, (0,), "num_steps must be an integer from 2 to 10000, got 1"),
        (MAX_STEPS + 1, (0,), "got 10001"),
        (True, (0,), "got True"),
        (10.0, (0,), "got 10.0"),
        ("10", (0,), "got '10'"),
        pytest.param(HUGE, (0,), "got a int that is too large to show", id="huge num_steps"),
        (10, (), "must start with 0.*got ()"),
        (10, (1, 5), "must start with 0.*got (1, 5)"),
        (10, (0, 5, 5), "must increase strictly, got 5 after 5"),
        (10, (0, 6, 5), "must increase strictly, got 5 after 6"),
        (10, (0, 10), "must stay below num_steps=10, got 10"),
        pytest.param(10, (0, HUGE), "must stay below num_steps=10, got a int", id="huge step"),
        (10, (0, True), "must be a list of integers, got (0, True)"),
        (10, (0, 1.0), "must be a list of integers, got (0, 1.0)"),
        (10, (-1, 0), "got (-1, 0)"),
        (10, "0", "must be a list of integers, got '0'"),
        (10, None, "must be a list of integers, got None"),
    ],
)
def test_invalid_steps_are_quoted(num_steps: Any, compute_steps: Any, words: str) -> None:
    pattern = re.escape(words).replace(r"\.\*", ".*")
    with pytest.raises(ScheduleError, match=pattern):
        CacheSchedule(num_steps, compute_steps)


def test_errors_are_short_and_of_the_family() -> None:
    with pytest.raises(ScheduleError) as caught:
        CacheSchedule(10, [0, *["x"] * 100_000])  # type: ignore[arg-type, list-item]
    assert len(str(caught.value)) < 200
    assert isinstance(caught.value, DitAccelError) and isinstance(caught.value, ValueError)


def test_provenance_must_be_an_object() -> None:
    with pytest.raises(ScheduleError, match="provenance must be a JSON object, got list"):
        CacheSchedule(10, (0,), [])


def test_uniform_by_hand() -> None:
    assert CacheSchedule.uniform(11, 3).compute_steps == (0, 5, 10)
    assert CacheSchedule.uniform(10, 10).compute_steps == tuple(range(10))
    assert CacheSchedule.uniform(10, 2).compute_steps == (0, 9)
    assert CacheSchedule.uniform(10, 4).provenance == {"name": "uniform-4", "objective": "uniform", "budget": 4}


@given(st.integers(2, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
@settings(deadline=None, max_examples=200)
def test_uniform_is_even_and_of_the_budget(shape: tuple[int, int]) -> None:
    num_steps, budget = shape
    steps = CacheSchedule.uniform(num_steps, budget).compute_steps
    gaps = [b - a for a, b in pairwise(steps)]
    assert (len(steps), steps[0], steps[-1]) == (budget, 0, num_steps - 1)
    assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize(
    ("num_steps", "budget", "words"),
    [
        (10, 1, "got 1"),
        (10, 11, "from 2 to num_steps=10, got 11"),
        (10, True, "got True"),
        (10, 3.0, "got 3.0"),
        ("10", 3, "num_steps must be an integer"),
        (10**12, 10**12, "num_steps must be an integer"),
    ],
)
def test_uniform_refuses(num_steps: Any, budget: Any, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        CacheSchedule.uniform(num_steps, budget)
