"""`RunRecord` and `AccelerationStats`: what is counted, over denoisers, branches and trajectories."""

from __future__ import annotations

import json
import math

import torch

from dit_accel.cache.state import BranchState, Kept
from dit_accel.run_record import Progress, RunRecord
from dit_accel.step_tracker import DenoiserCall


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


def test_kept_bytes_are_the_tensors_bytes():
    assert Kept(0, (torch.zeros(2, 3), None, torch.zeros(5, dtype=torch.float16))).nbytes == 2 * 3 * 4 + 5 * 2


def test_a_branch_tells_every_tensor_that_it_holds():
    tensors = [torch.zeros(1) for _ in range(5)]
    state = BranchState(
        origin=tensors[0],
        entry=(tensors[1], None),
        value=(None, tensors[2]),
        kept=[Kept(0, (tensors[3], None)), Kept(1, (None, tensors[4]))],
    )
    assert [id(tensor) for tensor in state.tensors] == [id(tensor) for tensor in tensors]
    assert BranchState().tensors == []


def test_stats_are_plain_json_values():
    record = RunRecord()
    note(record, call(0), is_reuse=False)
    values = record.stats().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["computed_steps"] == {"transformer": {"cond": [0]}}


def test_distances_are_told_by_denoiser_and_nan_apart():
    record = RunRecord()
    for step, denoiser, distance in (
        (1, "transformer", 0.5),
        (2, "transformer", math.nan),
        (3, "transformer_2", 0.25),
    ):
        record.note_distance(call(step, denoiser=denoiser), distance)
    stats = record.stats()
    assert stats.residual_diffs == {"transformer": [[1, 0.5]], "transformer_2": [[3, 0.25]]}
    assert stats.nan_steps == {"transformer": [2]}
    json.dumps(stats.to_dict(), allow_nan=False)
    record.begin(call(0, trajectory=1))
    assert (record.stats().residual_diffs, record.stats().nan_steps) == ({}, {})


def test_progress_begins_at_the_trajectorys_first_step():
    record = RunRecord()
    record.begin(call(2))
    record.progress.note(2, is_compute=True)
    record.begin(call(3))
    assert record.progress.first_step == 2
    record.progress.note(3, is_compute=False)
    record.begin(call(1, trajectory=1))
    assert record.progress == Progress(first_step=1)


def test_progress_counts_reused_steps_in_all_and_in_a_row():
    progress, seen = Progress(), []
    for step, is_compute in enumerate([True, False, False, True, False]):
        progress.note(step, is_compute=is_compute)
        seen.append((progress.cached_steps, progress.continuous_cached_steps))
    assert seen == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1)]


def test_two_denoisers_in_one_step_are_one_reused_step():
    progress = Progress()
    for _ in range(2):
        progress.note(1, is_compute=False)
    assert (progress.cached_steps, progress.continuous_cached_steps) == (1, 1)
