"""The policies rule by rule: when to compute, how long what was computed may be used, what to refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.cache.policies import DBCachePolicy, SchedulePolicy
from dit_accel.configs import DBCacheConfig
from dit_accel.errors import ScheduleMismatchError
from dit_accel.run_record import Progress
from dit_accel.schedule import CacheSchedule
from dit_accel.step_tracker import DenoiserCall

NUM_STEPS = 6


def call(step: int, num_steps: int = NUM_STEPS, branch: str = "cond") -> DenoiserCall:
    return DenoiserCall("transformer", branch, step, num_steps, 0)


def unasked() -> float:
    raise AssertionError("the distance costs a synchronisation with the device and was not needed")


# SchedulePolicy


def compute_and_uses(policy: SchedulePolicy) -> tuple[tuple[int, ...], list[int]]:
    compute = tuple(step for step in range(NUM_STEPS) if policy.is_compute(call(step), Progress(), unasked))
    return compute, [policy.last_use(step, NUM_STEPS) for step in compute]


@pytest.mark.parametrize(
    ("compute", "uses"),
    [
        ((0,), [5]),
        ((0, 1, 2, 3, 4, 5), [-1, -1, -1, -1, -1, -1]),
        ((0, 3, 5), [2, 4, -1]),
        ((0, 1, 4), [-1, 3, 5]),
        ((0, 5), [4, -1]),
    ],
)
def test_a_schedules_step_serves_until_the_next_one(compute, uses):
    policy = SchedulePolicy(CacheSchedule(NUM_STEPS, compute))
    assert (policy.num_values, policy.uses_probe) == (1, False)
    assert compute_and_uses(policy) == (compute, uses)


@pytest.mark.parametrize(
    ("forecast", "num_values", "uses"),
    [("hold", 1, [-1, 2, 5]), ("taylor1", 2, [2, 5, 5]), ("taylor2", 3, [5, 5, 5])],
)
def test_a_forecast_needs_a_step_for_longer(forecast, num_values, uses):
    policy = SchedulePolicy(CacheSchedule(NUM_STEPS, (0, 1, 3)), forecast)
    assert policy.num_values == num_values
    assert compute_and_uses(policy) == ((0, 1, 3), uses)


schedules = st.integers(2, 12).flatmap(
    lambda n: st.sets(st.integers(1, n - 1)).map(lambda later: CacheSchedule(n, (0, *sorted(later))))
)


@given(schedules, st.sampled_from([("hold", 1), ("taylor1", 2), ("taylor2", 3)]))
@settings(deadline=None, max_examples=200)
def test_last_uses_are_those_of_a_search_through_all_reuse_steps(schedule, forecast):
    policy = SchedulePolicy(schedule, forecast[0])
    reuse = [step for step in range(schedule.num_steps) if step not in schedule.compute_steps]
    for step in range(schedule.num_steps):  # also reuse steps: a branch that joins late computes there
        computed = sorted({*schedule.compute_steps, step})
        served = [r for r in reuse if r > step and step in [c for c in computed if c < r][-forecast[1] :]]
        last = policy.last_use(step, schedule.num_steps)
        assert last == served[-1] if served else last <= step


def test_a_run_of_the_planned_length_passes():
    SchedulePolicy(CacheSchedule(NUM_STEPS, (0, 3))).check(call(0))
    DBCachePolicy(DBCacheConfig(compute_steps=CacheSchedule(NUM_STEPS, (0, 3)))).check(call(0))


@pytest.mark.parametrize("num_steps", [5, 7])
@pytest.mark.parametrize("kind", ["schedule", "probe"])
def test_another_length_is_refused_with_a_way_out(num_steps, kind):
    schedule = CacheSchedule(6, (0, 3), {"name": "digits-wan/lemica-fast"})
    policy = SchedulePolicy(schedule) if kind == "schedule" else DBCachePolicy(DBCacheConfig(compute_steps=schedule))
    with pytest.raises(ScheduleMismatchError) as caught:
        policy.check(call(0, num_steps))
    message = str(caught.value)
    assert f"'digits-wan/lemica-fast' was planned for 6 steps, this run has {num_steps}" in message
    assert "num_inference_steps=6" in message
    assert "dit-accel profile" in message


# DBCachePolicy: each test leaves only the rule in force that it is about


def probe_policy(**options: Any) -> DBCachePolicy:
    free = {"max_warmup_steps": 0, "max_continuous_cached_steps": None, "always_compute_last": False}
    return DBCachePolicy(DBCacheConfig(**{**free, "residual_diff_threshold": 0.5, **options}))


def computed(policy: DBCachePolicy, first: int = 0, distance: float = 0.0) -> list[int]:
    """The steps that are computed of a trajectory from ``first`` on that sees the same distance throughout."""
    progress, steps = Progress(first_step=first), []
    for step in range(first, NUM_STEPS):
        is_compute = policy.is_compute(call(step), progress, lambda: distance)
        progress.note(step, is_compute=is_compute)
        steps += [step] if is_compute else []
    return steps


def test_with_no_rule_in_force_everything_is_reused():
    assert computed(probe_policy()) == []


@pytest.mark.parametrize("first", [0, 2])
def test_warmup_counts_from_the_first_step_of_the_trajectory(first):
    """Video-to-video begins in the middle of the grid."""
    assert computed(probe_policy(max_warmup_steps=2), first) == [first, first + 1]


def test_forced_steps_are_computed():
    assert computed(probe_policy(compute_steps=[1, 4, 99])) == [1, 4]
    assert computed(probe_policy(compute_steps=CacheSchedule(NUM_STEPS, (0, 3)))) == [0, 3]


def test_the_last_step_is_computed_if_it_is_asked_for():
    assert computed(probe_policy(always_compute_last=True)) == [5]


@pytest.mark.parametrize(("limit", "expected"), [(0, [0, 1, 2, 3, 4, 5]), (2, [2, 3, 4, 5]), (6, [])])
def test_at_most_so_many_steps_are_reused(limit, expected):
    assert computed(probe_policy(max_cached_steps=limit)) == expected


@pytest.mark.parametrize(("limit", "expected"), [(0, [0, 1, 2, 3, 4, 5]), (1, [1, 3, 5]), (2, [2, 5]), (6, [])])
def test_at_most_so_many_steps_are_reused_in_a_row(limit, expected):
    assert computed(probe_policy(max_continuous_cached_steps=limit)) == expected


@pytest.mark.parametrize(
    ("distance", "is_compute"),
    [(0.0, False), (math.nextafter(0.5, 0), False), (0.5, True), (0.6, True), (math.inf, True), (math.nan, True)],
)
def test_a_step_is_reused_strictly_below_the_threshold(distance, is_compute):
    assert probe_policy().is_compute(call(1), Progress(), lambda: distance) is is_compute


def test_a_threshold_of_zero_reuses_nothing():
    assert computed(probe_policy(residual_diff_threshold=0)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"max_warmup_steps": 1},
        {"compute_steps": [0]},
        {"max_cached_steps": 0},
        {"max_continuous_cached_steps": 0},
    ],
)
def test_the_distance_is_not_asked_for_where_another_rule_decides(options):
    assert probe_policy(**options).is_compute(call(0), Progress(), unasked)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, 5),
        ({"always_compute_last": True}, 4),
        ({"compute_steps": [3, 4], "always_compute_last": True}, 2),
        ({"compute_steps": [5]}, 4),
        ({"compute_steps": [2, 3, 4, 5]}, 1),
    ],
)
def test_what_was_computed_serves_to_the_last_step_that_is_not_forced(options, last):
    policy = probe_policy(**options)
    for step in range(NUM_STEPS):
        found = policy.last_use(step, NUM_STEPS)
        assert found == last if step < last else found <= step


def test_the_order_of_the_forecast_tells_how_many_values_are_kept():
    kinds = ("hold", "taylor1", "taylor2")
    assert [probe_policy(forecast=kind).num_values for kind in kinds] == [1, 2, 3]
    assert probe_policy().uses_probe
