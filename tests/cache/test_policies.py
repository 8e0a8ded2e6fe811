"""`SchedulePolicy`: when to compute, when to keep, what to refuse."""

from __future__ import annotations

import pytest

from dit_accel._diffusers import DenoiserCall
from dit_accel.cache.policies import SchedulePolicy
from dit_accel.errors import ScheduleMismatchError
from dit_accel.schedule import CacheSchedule


def call(step: int, num_steps: int = 6, branch: str = "cond") -> DenoiserCall:
    return DenoiserCall("transformer", branch, step, num_steps, 0)


@pytest.mark.parametrize(
    ("compute", "kept"),
    [
        ((0,), (0, 1, 2, 3, 4)),
        ((0, 1, 2, 3, 4, 5), ()),
        ((0, 3, 5), (0, 1, 3)),
        ((0, 1, 4), (1, 2, 4)),
        ((0, 5), (0, 1, 2, 3)),
    ],
)
def test_computes_the_schedules_steps_and_keeps_what_the_next_step_reuses(compute, kept):
    policy = SchedulePolicy(CacheSchedule(6, compute))
    for branch in ("cond", "uncond"):
        assert tuple(step for step in range(6) if policy.is_compute(call(step, branch=branch))) == compute
        assert tuple(step for step in range(6) if policy.is_kept(call(step, branch=branch))) == kept


def test_a_run_of_the_planned_length_passes():
    SchedulePolicy(CacheSchedule(6, (0, 3))).check(call(0))


@pytest.mark.parametrize("num_steps", [5, 7])
def test_another_length_is_refused_with_a_way_out(num_steps):
    policy = SchedulePolicy(CacheSchedule(6, (0, 3), {"name": "digits-wan/lemica-fast"}))
    with pytest.raises(ScheduleMismatchError) as caught:
        policy.check(call(0, num_steps))
    message = str(caught.value)
    assert f"'digits-wan/lemica-fast' was planned for 6 steps, this run has {num_steps}" in message
    assert "num_inference_steps=6" in message
    assert "dit-accel profile" in message
