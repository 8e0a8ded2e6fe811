"""Wan 2.2: one trajectory over two denoisers, each with residuals of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import WanPipeline
from torch import nn

from dit_accel import DBCacheConfig, enable_acceleration

from .conftest import CLASSES, BlockCalls, Lab, held, make_lab

NUM_STEPS = 8
BRANCHES = ("cond", "uncond")
HANDOVER = 4  # the first step of the second denoiser


@pytest.fixture(scope="module")
def two() -> Lab:
    lab = make_lab(*next(pair for pair in CLASSES if pair[1].endswith(".WanPipeline")))
    low_noise = copy.deepcopy(lab.pipe.transformer)
    nn.init.normal_(low_noise.proj_out.weight, generator=torch.Generator().manual_seed(3))
    lab.pipe = WanPipeline(**{**lab.pipe.components, "transformer_2": low_noise, "boundary_ratio": 0.8})
    lab.pipe.set_progress_bar_config(disable=True)
    lab.num_steps = NUM_STEPS
    return lab


def steps_of(stats, kind: str) -> dict[str, list[int]]:
    """Denoiser -> steps, which are the same for both branches."""
    found = {}
    for name, branches in getattr(stats, f"{kind}_steps").items():
        assert branches == {branch: branches["cond"] for branch in BRANCHES}
        found[name] = branches["cond"]
    return found


def test_the_denoisers_take_over_where_these_tests_say(two):
    denoisers = {call.step: call.denoiser for call in two.calls}
    assert denoisers == {k: "transformer" if k < HANDOVER else "transformer_2" for k in range(NUM_STEPS)}


def test_never_skipping_is_bit_identical_and_so_is_disabled(two):
    for enable in (two.enable_all_compute, lambda: two.enable_dbcache(residual_diff_threshold=0)):
        with enable():
            assert two.run().equal(two.full)
        assert two.run().equal(two.full)


def test_every_step_is_counted_once_and_a_new_denoiser_computes_first(two, executors):
    with two.enable((0,)) as acceleration:
        reused = two.run()
        stats = acceleration.stats
        assert held(executors) == []
    # Nothing of the first denoiser may be reused by the second: it computes its first step though not scheduled.
    assert steps_of(stats, "computed") == {"transformer": [0], "transformer_2": [HANDOVER]}
    assert steps_of(stats, "reused") == {"transformer": [1, 2, 3], "transformer_2": [5, 6, 7]}
    assert not reused.equal(two.full)
    assert reused.isfinite().all()


def test_one_warmup_and_one_count_of_reused_steps_hold_for_both(two):
    with two.enable_dbcache(max_warmup_steps=2, max_continuous_cached_steps=None) as acceleration:
        two.run()
        assert steps_of(acceleration.stats, "computed") == {"transformer": [0, 1], "transformer_2": [HANDOVER]}
        assert set(acceleration.stats.residual_diffs) == {"transformer", "transformer_2"}
    with two.enable_dbcache(max_cached_steps=4, max_continuous_cached_steps=None) as acceleration:
        two.run()
        assert steps_of(acceleration.stats, "reused") == {"transformer": [1, 2, 3], "transformer_2": [5]}


def test_the_first_denoisers_buffers_are_freed_when_it_has_handed_over(two, executors):
    seen = {}

    def look(pipe, step, timestep, tensors):
        seen[step] = [bool(held([executor])) for executor in executors]
        return tensors

    with two.enable((0, 6)):
        two.run(callback_on_step_end=look)
    assert seen[HANDOVER - 1] == [True, False]  # for a step 4 of the same denoiser
    assert seen[HANDOVER] == [True, True]  # it could still be that both run in every step
    assert [seen[step] for step in (5, 6, 7)] == [[False, False], [False, True], [False, False]]


def test_an_aborted_run_of_the_second_denoiser_leaves_no_trace(two):
    with two.enable_dbcache() as acceleration:
        expected, stats = two.run(), acceleration.stats
        layer = BlockCalls(two.pipe.transformer_2.blocks[-1]).layer
        handle = layer.register_forward_hook(lambda *_: pytest.fail("stop"))
        with pytest.raises(pytest.fail.Exception, match="stop"):
            two.run(seed=1)
        handle.remove()
        assert two.run().equal(expected)
        assert acceleration.stats.computed_steps == stats.computed_steps


def test_enough_blocks_to_cache_are_asked_of_each(two):
    config = DBCacheConfig(probe_blocks=1, corrector_blocks=2)
    with enable_acceleration(two.pipe, config) as acceleration:
        two.run()
        assert steps_of(acceleration.stats, "computed")["transformer"] == [0, 1, 2, 3]  # warmup
