"""The executor with a probe before and a corrector after the cached blocks: who decides, and from what.

A block adds a number, so the probe's residual is that number and the distance the relative change of it.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dit_accel.run_record import RunRecord
from dit_accel.step_tracker import DenoiserCall

from .conftest import Add, AddTwo, Bench, equals, probe_bench


@pytest.fixture
def bench() -> Bench:
    """Residual 8 of the probe, 20 of the cached block; an eighth of change is the threshold."""
    return probe_bench([Add(8), Add(20), Add(300)], corrector=1, residual_diff_threshold=0.125)


def move(bench: Bench, amount: float) -> Bench:
    """Give the probe block another residual."""
    bench.blocks[0].amount = amount
    return bench


def diffs(bench: Bench) -> list[list[float]]:
    return bench.record.stats().residual_diffs.get(bench.name, [])


def test_below_the_threshold_the_middle_is_reused_and_both_ends_run(bench):
    assert equals(bench.step(0, 1), 1 + 8 + 20 + 300)
    bench.blocks[1].amount, bench.blocks[2].amount = 1000, 400
    assert equals(move(bench, 8.5).step(1, 5), 5 + 8.5 + 20 + 400)
    assert bench.calls == [2, 1, 2]
    assert bench.stats == ({"cond": [0]}, {"cond": [1]})
    assert diffs(bench) == [[1, 0.5 / 8]]


def test_at_the_threshold_the_middle_is_computed(bench):
    bench.step(0, 1)
    bench.blocks[1].amount = 1000
    assert equals(move(bench, 9).step(1, 5), 5 + 9 + 1000 + 300)
    assert bench.stats == ({"cond": [0, 1]}, {})
    assert diffs(bench) == [[1, 0.125]]


def test_the_distance_is_from_the_last_compute_step(bench):
    for step, amount in enumerate([8, 8.5, 9, 9.5, 10, 10.5]):
        move(bench, amount).step(step, 1)
    assert bench.stats == ({"cond": [0, 2, 5]}, {"cond": [1, 3, 4]})
    steps, distances = zip(*diffs(bench), strict=True)
    assert steps == (1, 2, 3, 4, 5)
    assert distances == pytest.approx([0.5 / 8, 1 / 8, 0.5 / 9, 1 / 9, 1.5 / 9])


def test_the_first_branch_decides_for_all_and_the_others_tell_at_the_next_step(bench):
    for branch in ("cond", "uncond"):
        bench.step(0, 1, branch)
    bench.step(1, 1, "cond")
    move(bench, 16)  # twice the residual: by itself it would be computed
    bench.step(1, 1, "uncond")
    assert bench.stats == ({"cond": [0], "uncond": [0]}, {"cond": [1], "uncond": [1]})
    assert len(diffs(bench)) == 1, "one decision a step"


def test_a_first_branch_that_has_moved_has_all_computed(bench):
    for branch in ("cond", "uncond"):
        bench.step(0, 1, branch)
    move(bench, 16).step(1, 1, "cond")
    move(bench, 8).step(1, 1, "uncond")
    assert bench.stats == ({"cond": [0, 1], "uncond": [0, 1]}, {})


def test_the_distance_is_pooled_with_what_the_second_branch_moved_before(bench):
    for branch in ("cond", "uncond"):
        bench.step(0, 1, branch)
    for branch, amount in (("cond", 8.25), ("uncond", 8.75)):  # the second moves three times as far
        move(bench, amount).step(1, 1, branch)
    move(bench, 8.5).step(2, 1, "cond")
    assert diffs(bench) == [[1, 0.25 / 8], [2, (0.5 + 1.5) / 16]]


def test_a_branch_that_joins_late_computes_alone(bench):
    bench.step(0, 1, "cond")
    for step in (1, 2):
        for branch in ("cond", "uncond"):
            bench.step(step, 1, branch)
    assert bench.stats == ({"cond": [0], "uncond": [1]}, {"cond": [1, 2], "uncond": [2]})


def test_a_first_branch_that_joins_late_has_all_computed(bench):
    bench.step(0, 1, "cond")
    for branch in ("new", "cond"):
        bench.step(1, 1, branch)
    assert bench.stats == ({"cond": [0, 1], "new": [1]}, {})


def test_a_branch_that_missed_the_last_compute_step_computes():
    """Its residual is older than that of the others: guidance may skip steps."""
    bench = probe_bench([Add(8), Add(20)], compute_steps=[2])
    for step, branches in enumerate([("cond", "uncond"), ("cond", "uncond"), ("cond",), ("cond", "uncond")]):
        for branch in branches:
            move(bench, 8 + step / 32).step(step, 1, branch)
    assert bench.stats == ({"cond": [0, 2], "uncond": [0, 3]}, {"cond": [1, 3], "uncond": [1]})


def two_denoisers(**options: Any) -> tuple[Bench, Bench]:
    record, peers = RunRecord(), []
    high, low = (
        probe_bench([Add(8), Add(20)], record=record, peers=peers, name=name, **options)
        for name in ("transformer", "transformer_2")
    )
    return high, low


def run(high: Bench, low: Bench, *, first: int = 0, trajectory: int = 0) -> tuple[list[int], list[int]]:
    """Computed steps of a run that changes the denoiser at step 4."""
    for step in range(first, 8):
        (high if step < 4 else low).step(step, 1, trajectory=trajectory)
    return high.stats[0]["cond"], low.stats[0]["cond"]


def test_warmup_is_once_a_trajectory_and_not_once_a_denoiser():
    high, low = two_denoisers(max_warmup_steps=2)
    assert run(high, low) == ([0, 1], [4])  # the second computes one step, having nothing to reuse
    assert run(high, low, trajectory=1) == ([0, 1], [4])
    assert run(high, low, first=1, trajectory=2) == ([1, 2], [4])


def test_the_limits_count_over_both_denoisers():
    assert run(*two_denoisers(max_cached_steps=4)) == ([0], [4, 6, 7])
    assert run(*two_denoisers(max_continuous_cached_steps=2)) == ([0, 3], [4, 7])


def test_nan_in_the_distance_computes_and_is_told(bench):
    for step, amount in enumerate([8, math.nan, 8, 8]):
        out = move(bench, amount).step(step, 1)
        assert equals(out, 329) or step == 1
    assert bench.stats == ({"cond": [0, 1, 2]}, {"cond": [3]})
    stats = bench.record.stats()
    assert stats.nan_steps == {"transformer": [1, 2]}  # at 2 it is compared with the residual of 1
    assert stats.residual_diffs == {"transformer": [[3, 0.0]]}


def test_a_step_without_any_change_says_nothing_of_the_next(bench):
    for step in range(3):
        for branch in ("cond", "uncond"):
            bench.step(step, 1, branch)
    assert bench.stats == ({"cond": [0], "uncond": [0]}, {"cond": [1, 2], "uncond": [1, 2]})
    assert bench.record.stats().nan_steps == {}


def test_a_step_without_a_measurement_is_computed(bench):
    """A guider may skip the probe block; what was measured at the step before is no answer then."""
    for step in (0, 1):
        bench.step(step, 1)
    with torch.no_grad():
        bench.begin(2)
        x = torch.ones(1, 2)
        for block in list(bench.blocks)[1:]:
            x = block(x)
        bench.executor.end(x)
    assert bench.stats == ({"cond": [0, 2]}, {"cond": [1]})
    assert bench.record.stats().nan_steps == {"transformer": [2]}


def test_a_stream_may_be_none():
    bench = probe_bench([AddTwo(4), AddTwo(10)], streams=("text", "video"), video="video")
    with torch.no_grad():
        for step, value in enumerate([0.0, 5.0]):
            bench.begin(step)
            text, video = None, torch.full((1, 2), value)
            for block in bench.blocks:
                text, video = block(True, text, video)
            bench.executor.end(video)
            assert text is None
            assert equals(video, value + 8 + 20)
    assert bench.calls == [2, 1]


@pytest.mark.parametrize(("video", "distance"), [("text", 1 / 4), ("video", 2 / 8), (None, 1 / 4)])
def test_the_probe_measures_the_stream_of_the_specification(video, distance):
    bench = probe_bench([AddTwo(4), AddTwo(10)], streams=("text", "video"), video=video)
    with torch.no_grad():
        for step, (amount, shift) in enumerate([(4, 0.0), (4, 1.0)]):
            bench.blocks[0].amount = amount
            bench.begin(step)
            text, video_out = bench.blocks[0](True, torch.zeros(1, 3), torch.zeros(1, 2))
            text, video_out = (text + shift, video_out) if video != "video" else (text, video_out + 2 * shift)
            bench.executor.end(bench.blocks[1](True, text, video_out))
    assert diffs(bench) == [[1, distance]]


class Merge(nn.Module):
    """Adds to the video and leaves the text twice as long, as Motif's blocks that take the tokens of both."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, video: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        return video + 10, torch.cat([text, text + 1])


def test_a_stream_that_leaves_in_another_shape_is_kept_as_it_leaves():
    bench = Bench([Merge()], (0, 2), streams=("video", "text"))
    with torch.no_grad():
        for step, (video, text, expected) in enumerate(
            [(1.0, 5.0, 5.0), (2.0, 7.0, 5.0), (3.0, 9.0, 9.0), (4.0, 0.0, 9.0)]
        ):
            bench.begin(step)
            out, merged = bench.blocks[0](torch.full((3,), video), torch.full((1,), text))
            bench.executor.end(out)
            assert equals(out, video + 10)
            assert merged.tolist() == [expected, expected + 1]
            merged += 1000  # what a model does with it afterwards must not get into what is kept
    assert bench.calls == [2]


def test_a_call_to_leave_alone_runs_and_changes_nothing_in_the_cache(bench):
    bench.step(0, 1)
    before = bench.kept()[0].clone()
    with torch.no_grad():
        bench.executor.begin(None)
        bench.blocks[1].amount = 1000
        assert equals(bench.forward(torch.ones(1, 2)), 1 + 8 + 1000 + 300)
    assert bench.kept()[0].equal(before)
    assert bench.stats == ({"cond": [0]}, {})
    assert equals(bench.step(1, 5), 5 + 8 + 20 + 300)
    assert bench.stats == ({"cond": [0]}, {"cond": [1]})


def test_a_call_to_leave_alone_as_the_very_first(bench):
    with torch.no_grad():
        bench.executor.begin(None)
        assert equals(bench.forward(torch.ones(1, 2)), 329)
    assert bench.record.stats().num_steps == 0 and bench.held() == []


def test_a_call_to_leave_alone_after_one_that_raised(bench):
    bench.step(0, 1)
    with torch.no_grad():
        bench.begin(1)
        bench.blocks[0](torch.ones(1, 2))  # and then the model raised
        bench.executor.begin(None)
        bench.blocks[1].amount = 1000
        assert equals(bench.forward(torch.ones(1, 2)), 1 + 8 + 1000 + 300)
    assert bench.stats == ({"cond": [0]}, {})


def test_everything_is_freed_when_no_later_step_may_reuse(bench):
    for step in range(8):
        bench.step(step, 1)
        assert bool(bench.held()) == (step < 7)
    assert bench.record.cache_bytes == 0
    assert bench.record.cache_bytes_peak == 2 * 2 * 4  # the residual, and the probe's


def test_a_run_that_raised_in_the_middle_does_not_decide_for_the_next(bench):
    bench.step(0, 1)
    with torch.no_grad():
        bench.begin(1)
        bench.blocks[0](torch.ones(1, 2))  # and then the model raised
    bench.executor.begin(DenoiserCall("transformer", "cond", 0, 8, 1))
    with torch.no_grad():
        assert equals(bench.forward(torch.ones(1, 2)), 329)
    assert bench.stats == ({"cond": [0]}, {})
