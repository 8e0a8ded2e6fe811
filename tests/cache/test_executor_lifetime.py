"""When the executor keeps a residual and when it frees it; blocks add 10 and 20, so the residual is 30."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from .conftest import Add, Bench, equals, probe_bench


def test_a_residual_is_kept_only_where_a_later_step_needs_it():
    bench = Bench([Add(10), Add(20)], compute=(0, 1, 4), num_steps=6)
    kept = []
    for step in range(6):
        bench.step(step, 1)
        kept.append(len(bench.kept()))
    assert kept == [0, 1, 1, 0, 1, 0]
    assert bench.record.cache_bytes == 0


def test_the_buffer_is_filled_anew_rather_than_replaced():
    # Only a policy that keeps more than a schedule does computes while the buffer is full.
    bench = probe_bench([Add(10), Add(20)], residual_diff_threshold=0)
    bench.step(0, 1)
    (before,) = bench.kept()
    bench.blocks[1].amount = 50
    bench.step(1, 1)
    (after,) = bench.kept()
    assert after.data_ptr() == before.data_ptr()
    assert equals(after, 50)
    assert bench.record.cache_bytes_peak == 2 * 2 * 4  # the residual, and what the probe compares with


def test_the_residual_dies_with_the_trajectory():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, 1)
    residual = weakref.ref(bench.kept()[0])
    assert residual() is not None
    for step in (1, 2, 3):
        bench.step(step, 1)
    gc.collect()
    assert residual() is None
    assert bench.held() == []


def test_a_new_trajectory_starts_without_the_old_residual():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    bench.step(0, 1)
    blocks[0].amount = 1000
    assert equals(bench.step(1, 5, trajectory=1), 5 + 1020)
    assert bench.stats == ({"cond": [1]}, {})
    assert equals(bench.step(2, 5, trajectory=1), 5 + 1020)
    assert bench.stats == ({"cond": [1]}, {"cond": [2]})


def test_release_frees_what_an_aborted_forward_left():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    with torch.no_grad():
        bench.begin(0)
        blocks[0](torch.ones(1, 2))
    assert bench.held()
    bench.executor.release()
    assert bench.held() == []
    assert equals(blocks[0](torch.ones(1, 2)), 11), "outside a forward a block is itself"


def test_the_second_denoiser_computes_first_and_the_first_ones_residual_is_freed(pair):
    high, low = pair
    for step in range(4):
        high.step(step, 1)
    assert high.held()
    assert equals(low.step(4, 5), 1005)
    assert equals(low.step(5, 6), 1006)
    assert high.held() == []
    assert low.calls == [1]
    for step in (6, 7):
        low.step(step, 1)
    assert low.held() == []
    assert high.stats == ({"cond": [0, 2]}, {"cond": [1, 3]})
    assert low.stats == ({"cond": [4]}, {"cond": [5, 6, 7]})
    assert high.record.cache_bytes == 0


def test_two_denoisers_in_every_step_keep_their_residuals(pair):
    high, low = pair
    for step in range(8):
        assert equals(high.step(step, 1), 11)
        assert equals(low.step(step, 1), 1001)
    assert high.calls == low.calls == [2]
    assert high.record.cache_bytes_peak == 2 * 2 * 4


def test_an_aborted_run_of_the_second_denoiser_does_not_spoil_the_next_runs_bytes(pair):
    high, low = pair
    high.step(3, 1)
    low.step(4, 1)
    assert low.held()
    for step in range(4):
        high.step(step, 1, trajectory=1)
    assert low.held() == []
    for step in range(4, 8):
        low.step(step, 1, trajectory=1)
    assert high.record.cache_bytes == 0
    assert high.record.cache_bytes_peak == 2 * 2 * 4  # both at the hand-over, of 2 float32 each


UNTOLD = pytest.mark.xfail(reason="nothing tells that it is not still to come in the last step")


@pytest.mark.parametrize("last", [0, 1, pytest.param(2, marks=UNTOLD)])
def test_a_branch_that_ends_before_the_others_holds_nothing_at_the_end(last):
    """Guidance may stop early; its residual would be held through the VAE and until the next call."""
    bench = Bench([Add(10)], compute=(0,))
    for step in range(4):
        bench.step(step, 1, "cond")
        if step <= last:
            bench.step(step, 1, "skip")
    assert bench.held() == []
    assert bench.record.cache_bytes == 0
