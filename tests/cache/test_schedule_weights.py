"""Reuse steps by the weights of a schedule; at step s the blocks add 2 ** s, so every sum tells its parts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.actions import MAX_WEIGHTS
from dit_accel.cache.policies import SchedulePolicy
from dit_accel.schedule import CacheSchedule

from .conftest import Add, AddTwo, Bench, equals

NUM_STEPS, COMPUTE = 9, (0, 1, 3, 6)
WEIGHTS = {2: (-1.0, 2.0), 4: (0.5, 0.25, 2.0), 5: (3.0,), 7: (0.5, -0.25), 8: (2.0,)}


def weighted_bench(
    forecasts: dict[int, Sequence[float]] | None = None, compute: tuple[int, ...] = COMPUTE, **policy: Any
) -> Bench:
    schedule = CacheSchedule(NUM_STEPS, compute, forecasts=WEIGHTS if forecasts is None else forecasts)
    return Bench([Add(1)], SchedulePolicy(schedule, **policy), num_steps=NUM_STEPS)


def run_step(bench: Bench, step: int, value: float = 100, branch: str = "cond") -> float:
    """What the blocks have added, computed or not."""
    bench.blocks[0].amount = 2.0**step
    output = bench.step(step, value, branch)
    assert equals(output, float(output[0, 0]))
    return float(output[0, 0]) - value


def test_the_weighted_sum_of_the_last_residuals_is_applied():
    bench = weighted_bench()
    added = [run_step(bench, step, value=8 * step) for step in range(NUM_STEPS)]
    assert added == [1, 2, -1 + 4, 8, 0.5 * 1 + 0.25 * 2 + 2 * 8, 3 * 8, 64, 0.5 * 8 - 0.25 * 64, 2 * 64]
    assert bench.stats == ({"cond": list(COMPUTE)}, {"cond": [2, 4, 5, 7, 8]})


def test_steps_without_weights_hold():
    bench = weighted_bench({4: (1.0, 1.0)})
    assert [run_step(bench, step) for step in range(NUM_STEPS)] == [1, 2, 2, 8, 10, 8, 64, 64, 64]


@st.composite
def weighted_schedules(draw: st.DrawFn) -> CacheSchedule:
    num_steps = draw(st.integers(3, 10))
    compute = (0, *sorted(draw(st.sets(st.integers(1, num_steps - 1), max_size=num_steps - 2))))
    forecasts = {}
    for step in set(range(num_steps)) - set(compute):
        most = min(MAX_WEIGHTS, sum(c < step for c in compute))
        exact = st.integers(-8, 8).map(lambda eighths: eighths / 8)  # so that the order of the sum does not count
        forecasts[step] = draw(st.lists(exact, min_size=1, max_size=most))
    return CacheSchedule(num_steps, compute, forecasts=forecasts)


@given(weighted_schedules(), st.sampled_from([("cond",), ("cond", "uncond")]))
@settings(deadline=None, max_examples=150)
def test_any_schedule_is_followed_and_keeps_only_what_is_still_used(schedule, branches):
    policy = SchedulePolicy(schedule)
    bench = Bench([Add(1)], policy, num_steps=schedule.num_steps)
    reuse = [step for step in range(schedule.num_steps) if step not in schedule.compute_steps]
    used = {step: schedule.sources(step, len(schedule.weights(step))) for step in reuse}
    assert policy.num_values == max(map(len, used.values()), default=1)
    for step in range(schedule.num_steps):
        for offset, branch in enumerate(branches):
            found = run_step(bench, step, value=64 * offset, branch=branch)
            parts = zip(schedule.weights(step), used[step], strict=True) if step in used else [(1.0, step)]
            assert found == sum(weight * 2.0**source for weight, source in parts)
            # Of what was computed so far, all that a later step uses must be there; the rest may only lie between.
            needed = {source for later in reuse if later > step for source in used[later] if source <= step}
            kept = [value.step for value in bench.executor._states[branch].kept]
            assert needed <= set(kept) and (not kept or min(kept) >= min(needed, default=step + 1))
    assert bench.record.cache_bytes == 0 and bench.held() == []


def test_buffers_are_freed_after_their_last_use():
    bench = weighted_bench()
    residuals, alive = {}, []
    for step in range(NUM_STEPS):
        run_step(bench, step)
        if bench.executor._states["cond"].kept:
            newest = bench.executor._states["cond"].kept[-1]
            residuals.setdefault(newest.step, weakref.ref(newest.tensors[0]))
            del newest
        gc.collect()
        alive.append([source for source, residual in residuals.items() if residual() is not None])
    # 0 and 1 are last used at step 4, 3 at step 7, 6 at the last one.
    assert alive == [[0], [0, 1], [0, 1], [0, 1, 3], [3], [3], [3, 6], [6], []]
    assert bench.record.cache_bytes == 0
    assert bench.record.cache_bytes_peak == 3 * 2 * 4


def test_more_weights_than_are_kept_so_far_need_no_more_memory_than_the_schedule_uses():
    policy = SchedulePolicy(CacheSchedule(NUM_STEPS, COMPUTE, forecasts={2: (0.5, 0.5)}))
    assert policy.num_values == 2 and not policy.needs_times
    assert [policy.last_use(step, NUM_STEPS) for step in COMPUTE] == [2, 2, 5, 8]
    plain = SchedulePolicy(CacheSchedule(NUM_STEPS, COMPUTE))
    assert plain.num_values == 1 and not plain.needs_times


@pytest.mark.parametrize("joins_at", [1, 2, 3, 4, 5, 6, 7])
def test_a_branch_that_joins_late_holds_its_newest_until_it_has_what_the_weights_count_on(joins_at):
    bench, found = weighted_bench(), {}
    for step in range(NUM_STEPS):
        run_step(bench, step)
        if step >= joins_at:
            found[step] = run_step(bench, step, branch="late")
    computed = sorted({joins_at, *(step for step in COMPUTE if step >= joins_at)})
    assert bench.stats[0]["late"] == computed
    for step, added in found.items():
        weights = WEIGHTS.get(step, (1.0,))
        before = [source for source in computed if source < step]
        if step in computed:
            assert added == 2.0**step
        elif before[-len(weights) :] == list(CacheSchedule(NUM_STEPS, COMPUTE).sources(step, len(weights))):
            assert added == sum(w * 2.0**s for w, s in zip(weights, before[-len(weights) :], strict=True))
        else:
            assert added == 2.0 ** before[-1]


def test_an_explicit_forecast_overrides_the_weights():
    held = weighted_bench(forecast="hold")
    assert [run_step(held, step) for step in range(NUM_STEPS)] == [1, 2, 2, 8, 8, 8, 64, 64, 64]
    assert held.record.cache_bytes_peak == 2 * 4
    line = weighted_bench(forecast="taylor1")  # model time is the step index, so the line goes through (1, 2), (3, 8)
    added = [run_step(line, step) for step in range(6)]
    assert added[4] != 0.5 * 1 + 0.25 * 2 + 2 * 8 and added[:4] == pytest.approx([1, 2, added[2], 8])
    times = line.times.tolist()
    slope = (8 - 2) / (times[3] - times[1])
    assert added[4:] == pytest.approx([8 + slope * (times[step] - times[3]) for step in (4, 5)])
    assert SchedulePolicy(CacheSchedule(NUM_STEPS, COMPUTE, forecasts=WEIGHTS), "taylor1").needs_times


def test_every_stream_is_summed_and_an_absent_one_stays_absent():
    policy = SchedulePolicy(CacheSchedule(4, (0, 1), forecasts={2: (-1.0, 2.0)}))
    bench = Bench([AddTwo(1)], policy, streams=("text", "video"), video="video", num_steps=4)
    for text in (torch.ones(1, 2), None):
        bench.executor.release()
        for step in range(3):
            bench.blocks[0].amount = 10.0**step
            with torch.no_grad():
                bench.begin(step, trajectory=int(text is None))
                output = bench.blocks[0](True, text=text, video=torch.ones(1, 3))
                bench.executor.end(output[1])
        assert (output[0] is None) if text is None else equals(output[0], 1 + 2 * 10 - 1)
        assert equals(output[1], 1 + 2 * (2 * 10 - 1))


@given(st.lists(st.integers(-8, 8), min_size=3, max_size=3))
@settings(deadline=None, max_examples=30)
def test_kept_values_are_not_changed_by_their_use(eighths):
    weights = tuple(value / 8 for value in eighths)
    bench = weighted_bench({4: weights, 5: weights, 7: weights, 8: weights})
    added = [run_step(bench, step) for step in range(NUM_STEPS)]
    assert added[4] == added[5] == sum(w * 2.0**s for w, s in zip(weights, (0, 1, 3), strict=True))
    assert added[7] == added[8] == sum(w * 2.0**s for w, s in zip(weights, (1, 3, 6), strict=True))
