"""What every family gets for free: reuse by the schedule, whatever the inputs, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dit_accel._diffusers import stream_positions
from dit_accel.errors import ScheduleMismatchError

from .conftest import COMPUTE, NUM_STEPS, BlockCalls


def test_a_schedule_that_computes_every_step_changes_no_bit(lab):
    expected = lab.run()
    with lab.enable_all_compute() as acceleration:
        assert lab.run().equal(expected)
        lab.assert_follows(acceleration, tuple(range(NUM_STEPS)))
        assert acceleration.stats.cache_bytes_peak == 0


def test_reused_steps_are_exactly_the_schedules_for_every_branch(lab):
    with lab.enable() as acceleration:
        for _ in range(2):
            lab.run()
            lab.assert_follows(acceleration)


def test_stats_add_up_to_the_steps(lab):
    with lab.enable() as acceleration:
        assert acceleration.stats.num_steps == 0
        lab.run()
        stats = acceleration.stats
        for name, branches in stats.computed_steps.items():
            for branch, steps in branches.items():
                assert sorted(steps + stats.reused_steps[name][branch]) == list(range(NUM_STEPS))
        assert 0 < stats.denoise_seconds < 60


def test_blocks_really_do_not_run_at_reuse_steps(lab):
    calls = [BlockCalls(block) for block in lab.blocks]
    lab.run()
    full = [call.count for call in calls]
    with lab.enable():
        lab.run()
    assert [call.count * NUM_STEPS for call in calls] == [count * (NUM_STEPS + len(COMPUTE)) for count in full]


def test_the_same_input_twice_gives_the_same_output(lab):
    """The cached path against the computed one, with nothing else different: the cheapest test of an adapter."""
    given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    handles = [
        denoiser.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: given.setdefault(name, (args, kwargs)) and None, with_kwargs=True
        )
        for name, denoiser in lab.denoisers.items()
    ]
    lab.run()
    for handle in handles:
        handle.remove()
    with lab.enable((0,)) as acceleration, torch.no_grad():
        for name, denoiser in lab.denoisers.items():
            args, kwargs = given[name]
            outputs = []
            for step in (0, 1):
                with denoiser.cache_context("cond", step_index=step, num_inference_steps=NUM_STEPS):
                    outputs.append(denoiser(*args, **kwargs)[0])
            assert (outputs[1] - outputs[0]).norm() <= 1e-6 * outputs[0].norm()
            assert acceleration.stats.reused_steps[name] == {"cond": [1]}


def test_batch_of_two(lab):
    plain = lab.run(prompt=["a red seven spinning on navy", "a cyan one moving up on black"])
    prompts = ["a red seven spinning on navy", "a cyan one moving up on black"]
    with lab.enable_all_compute():
        assert lab.run(prompt=prompts).equal(plain)
    with lab.enable() as acceleration:
        assert lab.run(prompt=prompts).shape == plain.shape
        lab.assert_follows(acceleration)


def test_without_guidance(lab):
    plain = lab.run(guidance_scale=1.0)
    with lab.enable_all_compute():
        assert lab.run(guidance_scale=1.0).equal(plain)
    with lab.enable() as acceleration:
        lab.run()
        guided = acceleration.stats
        lab.run(guidance_scale=1.0)
        lab.assert_follows(acceleration)
        unguided = acceleration.stats
        for name, branches in unguided.computed_steps.items():
            assert set(branches) <= set(guided.computed_steps[name])
        assert unguided.cache_bytes_peak <= guided.cache_bytes_peak


def test_another_resolution_in_the_next_call(lab):
    with lab.enable():
        small, large = lab.run(), lab.run(**lab.larger)
    assert small.shape != large.shape
    fresh = lab.another()
    with fresh.enable() as acceleration:
        for expected, changes in ((large, lab.larger), (small, {}), (large, lab.larger)):
            assert fresh.run(**changes).equal(expected)
            fresh.assert_follows(acceleration)


@pytest.mark.parametrize("steps", [NUM_STEPS - 1, NUM_STEPS + 1])
def test_a_wrong_number_of_steps_is_refused_before_any_block_runs(lab, steps):
    calls = [BlockCalls(block) for block in lab.blocks]
    with lab.enable() as acceleration:
        expected = lab.run()
        for call in calls:
            call.count = 0
        for _ in range(2):
            with pytest.raises(ScheduleMismatchError, match=f"planned for {NUM_STEPS} steps, this run has {steps}"):
                lab.run(steps=steps)
        assert [call.count for call in calls] == [0] * len(calls)
        assert lab.run().equal(expected)
        lab.assert_follows(acceleration)


def test_cache_bytes_peak_is_the_bytes_of_one_entry_for_every_branch(lab):
    entries: list[int] = []
    block = lab.blocks[0]
    positions = stream_positions(block, lab.spec.blocks.streams)
    handle = block.register_forward_pre_hook(
        lambda _, args: entries.append(sum(args[position].nbytes for position in positions))
    )
    lab.run()
    handle.remove()
    with lab.enable() as acceleration:
        lab.run()
        stats = acceleration.stats
    branches = sum(map(len, stats.computed_steps.values()))
    assert stats.cache_bytes_peak == branches * entries[0] > 0


def test_the_video_itself_is_decoded(lab):
    """Past the latents, the rest of the pipeline works as ever."""
    frames = lab.pipe(
        prompt="a red seven spinning on navy", num_inference_steps=NUM_STEPS, **lab.spec.tiny_inputs
    ).frames
    with lab.enable():
        reused = lab.pipe(
            prompt="a red seven spinning on navy", num_inference_steps=NUM_STEPS, **lab.spec.tiny_inputs
        ).frames
    assert frames.shape == reused.shape
