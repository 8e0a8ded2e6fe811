"""`Probe`: residuals of a few numbers, so that every sum fits in the head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dit_accel.cache.probe import Probe


def distance(probe: Probe) -> float:
    return float(probe.distance(alone))


def alone(sums: Tensor) -> Tensor:
    return sums


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def anchored(**anchors: Tensor) -> Probe:
    """A probe after a compute step."""
    probe = Probe()
    for index, (branch, anchor) in enumerate(anchors.items()):
        probe.measure(branch, anchor, is_first=index == 0)
        probe.anchor(branch, anchor)
    return probe


def test_the_distance_of_one_branch_is_the_relative_change():
    probe = anchored(cond=values(3, -5))
    probe.measure("cond", values(4, -7), is_first=True)
    assert distance(probe) == (1 + 2) / (3 + 5)


def test_an_unchanged_residual_has_no_distance():
    probe = anchored(cond=values(3, -5))
    probe.measure("cond", values(3, -5), is_first=True)
    assert distance(probe) == 0


def test_before_any_compute_step_there_is_nothing_to_tell():
    probe = Probe()
    probe.measure("cond", values(1), is_first=True)
    assert probe.distance(alone) is None


@pytest.mark.parametrize("other", [values(1, 2, 3), torch.tensor([3, -5], dtype=torch.float64)])
def test_a_residual_of_another_form_has_nothing_to_compare_with(other):
    probe = anchored(cond=values(3, -5))
    probe.measure("cond", other, is_first=True)
    assert probe.distance(alone) is None


def test_the_change_is_from_the_compute_step_and_not_from_the_step_before():
    probe = anchored(cond=values(10))
    for value, expected in ((11, 0.1), (12, 0.2)):
        probe.measure("cond", values(value), is_first=True)
        assert distance(probe) == pytest.approx(expected)


def test_branches_not_measured_yet_are_taken_to_change_by_the_same_share():
    probe = anchored(cond=values(2), uncond=values(8))
    probe.measure("cond", values(3), is_first=True)
    assert distance(probe) == 0.5  # 1 of 2, so 4 of 8: together 5 of 10


def test_two_branches_are_pooled_with_the_second_one_predicted_by_the_last_ratio():
    probe = anchored(cond=values(2), uncond=values(6))
    probe.measure("cond", values(3), is_first=True)
    probe.measure("uncond", values(8), is_first=False)  # twice the change of cond
    probe.measure("cond", values(5), is_first=True)
    assert distance(probe) == (3 + 2 * 3) / (2 + 6)


def test_the_ratio_follows_what_is_measured():
    probe = anchored(cond=values(2), uncond=values(6))
    for cond, ratio, uncond in ((3, 3, 8), (3, 2, 6.5), (4, 0.5, 6)):  # before any was measured: 6 to 2
        probe.measure("cond", values(cond), is_first=True)
        assert distance(probe) == (cond - 2) * (1 + ratio) / (2 + 6)
        probe.measure("uncond", values(uncond), is_first=False)


def test_either_branch_may_come_first():
    probe = anchored(cond=values(2), uncond=values(8))
    probe.measure("uncond", values(12), is_first=True)
    assert distance(probe) == 0.5


def test_nan_in_a_branch_is_nan_in_the_distance():
    probe = anchored(cond=values(1, 1))
    probe.measure("cond", values(1, math.nan), is_first=True)
    assert math.isnan(distance(probe))


def test_nan_in_the_second_branch_tells_at_the_next_step_and_no_longer():
    probe = anchored(cond=values(2), uncond=values(6))
    seen = []
    for uncond in (math.nan, 8, 8):
        probe.measure("cond", values(3), is_first=True)
        seen.append(distance(probe))
        probe.measure("uncond", values(uncond), is_first=False)
    assert seen[0] == 0.5 and math.isnan(seen[1])
    assert seen[2] == (1 + 2 * 1) / (2 + 6)


@pytest.mark.parametrize("now", [0.0, 1.0])
def test_from_a_residual_of_zero_nothing_is_below_any_threshold(now):
    probe = anchored(cond=values(0, 0))
    probe.measure("cond", values(now, now), is_first=True)
    found = distance(probe)
    assert found == math.inf if now else math.isnan(found)


def test_half_precision_is_summed_in_float32():
    probe = anchored(cond=torch.full((1000,), 100.0, dtype=torch.float16))
    probe.measure("cond", torch.full((1000,), 150.0, dtype=torch.float16), is_first=True)
    assert distance(probe) == 0.5  # the sum of 100,000 is infinite in float16


def test_measuring_changes_no_residual():
    anchor, now = values(3, -5), values(-1, 4)
    probe = anchored(cond=anchor)
    probe.measure("cond", now, is_first=True)
    probe.distance(alone)
    assert anchor.tolist() == [3, -5] and now.tolist() == [-1, 4]


def test_bytes_are_those_of_the_anchors_until_they_are_cleared():
    probe = anchored(cond=values(1, 2), uncond=values(1, 2, 3))
    assert probe.nbytes == (2 + 3) * 4
    probe.clear("cond")
    assert probe.nbytes == 3 * 4
    probe.clear()
    assert probe.nbytes == 0


def test_a_cleared_branch_is_no_part_of_the_distance():
    probe = anchored(cond=values(2), uncond=values(8))
    probe.measure("cond", values(3), is_first=True)
    probe.measure("uncond", values(24), is_first=False)
    probe.clear("uncond")
    assert distance(probe) == 0.5
    probe.clear()
    assert probe.distance(alone) is None


def test_a_branch_that_was_freed_in_the_step_is_nothing_to_compare_the_next_one_with():
    """The last of two steps: the first branch is freed at its end, before the second has been compared once."""
    probe = anchored(cond=values(1), uncond=values(2))
    probe.measure("cond", values(2), is_first=True)
    assert distance(probe) == 1
    probe.clear("cond")
    probe.measure("uncond", values(3), is_first=False)
    assert probe.distance(alone) is None
