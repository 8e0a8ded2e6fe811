"""`RunRecord` and `AccelerationStats`: what is counted, over denoisers, branches and trajectories."""

from __future__ import annotations

import json

import torch

from dit_accel._diffusers import DenoiserCall
from dit_accel.cache.state import BranchState, RunRecord


def call(step: int, branch: str = "cond", denoiser: str = "transformer", trajectory: int = 0) -> DenoiserCall:
    return DenoiserCall(denoiser, branch, step, 4, trajectory)


def note(record: RunRecord, call: DenoiserCall, *, is_reuse: bool) -> None:
    record.begin(call)
    record.count(call, is_reuse=is_reuse)


def test_a_fresh_record_is_empty():
    stats = RunRecord().stats()
    assert (stats.num_steps, stats.computed_steps, stats.reused_steps) == (0, {}, {})
    assert (stats.denoise_seconds, stats.cache_bytes_peak) == (0.0, 0)
    assert (stats.density, stats.dense_calls, stats.sparse_calls) == (None, 0, 0)


def test_steps_are_listed_by_denoiser_and_branch():
    record = RunRecord()
    note(record, call(0), is_reuse=False)
    note(record, call(0, "uncond"), is_reuse=False)
    note(record, call(1), is_reuse=True)
    note(record, call(2, denoiser="transformer_2"), is_reuse=False)
    stats = record.stats()
    assert stats.num_steps == 4
    assert stats.computed_steps == {"transformer": {"cond": [0], "uncond": [0]}, "transformer_2": {"cond": [2]}}
    assert stats.reused_steps == {"transformer": {"cond": [1]}}


def test_a_snapshot_does_not_change_afterwards():
    record = RunRecord()
    note(record, call(0), is_reuse=False)
    stats = record.stats()
    note(record, call(1), is_reuse=False)
    assert stats.computed_steps == {"transformer": {"cond": [0]}}


def test_a_new_trajectory_starts_afresh():
    record = RunRecord()
    note(record, call(0), is_reuse=False)
    record.watch.start()
    record.watch.lap()
    record.hold(100)
    record.hold(-100)
    note(record, call(0, trajectory=1), is_reuse=False)
    stats = record.stats()
    assert stats.computed_steps == {"transformer": {"cond": [0]}}
    assert stats.cache_bytes_peak == 0
    assert stats.denoise_seconds == 0.0


def test_the_peak_is_the_most_that_was_held_at_once():
    record = RunRecord()
    for change in (100, 50, -100, 60, -110):
        record.hold(change)
    assert (record.cache_bytes, record.cache_bytes_peak) == (0, 150)


def test_what_is_still_held_counts_in_the_next_trajectory():
    record = RunRecord()
    record.begin(call(0))
    record.hold(100)
    record.begin(call(0, trajectory=1))
    record.hold(20)
    record.hold(-100)
    assert (record.cache_bytes, record.cache_bytes_peak) == (20, 120)


def test_residual_bytes_are_the_tensors_bytes():
    assert BranchState().residual_bytes == 0
    residual = (torch.zeros(2, 3), torch.zeros(5, dtype=torch.float16))
    assert BranchState(residual=residual).residual_bytes == 2 * 3 * 4 + 5 * 2


def test_stats_are_plain_json_values():
    record = RunRecord()
    note(record, call(0), is_reuse=False)
    values = record.stats().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["computed_steps"] == {"transformer": {"cond": [0]}}
