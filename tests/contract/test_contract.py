"""What every family gets for free: enable, reuse by the schedule, disable, and nothing else changes."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import disable_acceleration, enable_acceleration
from dit_accel._diffusers import stream_positions
from dit_accel.cache import install
from dit_accel.cache.executor import BlockRangeExecutor
from dit_accel.configs import LeMiCaConfig
from dit_accel.errors import AlreadyAcceleratedError, ScheduleMismatchError
from dit_accel.schedule import CacheSchedule

from .conftest import COMPUTE, NUM_STEPS, REUSE, BlockCalls, Lab

OTHER_COMPUTE = (0, 1, 5)


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[BlockRangeExecutor]:
    """The executors that `enable_acceleration` makes during the test."""
    made: list[BlockRangeExecutor] = []

    class Noted(BlockRangeExecutor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(install, "BlockRangeExecutor", Noted)
    return made


def held(executors: list[BlockRangeExecutor]) -> list[Tensor]:
    """Every tensor that the executors hold."""
    states = [state for e in executors for state in (*e._states.values(), e._state)]
    return [tensor for state in states for kept in (state.entry, state.residual) for tensor in kept or ()]


def attributes(lab: Lab) -> dict[str, Any]:
    """Names of all instance attributes of the pipeline and its modules, and how many hooks hang on each module."""
    found: dict[str, Any] = {"": sorted(vars(lab.pipe))}
    for name, component in lab.pipe.components.items():
        for path, module in component.named_modules() if isinstance(component, torch.nn.Module) else ():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
            found[f"{name}.{path}"] = (sorted(vars(module)), hooks)
    return found


def test_enable_then_disable_is_bit_identical_and_leaves_nothing(lab):
    expected = lab.run()
    before = attributes(lab)
    acceleration = lab.enable()
    assert attributes(lab) != before
    assert not lab.run().equal(expected)
    acceleration.disable()
    assert attributes(lab) == before
    assert lab.run().equal(expected)


def test_disable_by_the_pipeline_is_the_same(lab):
    expected = lab.run()
    before = attributes(lab)
    lab.enable()
    disable_acceleration(lab.pipe)
    disable_acceleration(lab.pipe)
    assert attributes(lab) == before
    assert lab.run().equal(expected)


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


def test_a_second_enable_raises_and_changes_nothing(lab):
    acceleration = lab.enable()
    expected, before = lab.run(), attributes(lab)
    with pytest.raises(AlreadyAcceleratedError, match=r"already accelerated.*disable_acceleration"):
        lab.enable(OTHER_COMPUTE)
    assert attributes(lab) == before
    assert lab.run().equal(expected)
    lab.assert_follows(acceleration)


def test_a_second_enable_through_a_pipeline_that_shares_the_denoiser_raises(lab):
    sharing = Lab(lab.spec, type(lab.pipe)(**lab.pipe.components))
    with lab.enable(), pytest.raises(AlreadyAcceleratedError, match="already accelerated"):
        sharing.enable()
    sharing.enable().disable()


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_pipelines_of_one_class_do_not_interact(lab, first_out):
    labs, schedules = (lab, lab.another()), (COMPUTE, OTHER_COMPUTE)
    plain, alone = lab.run(), []
    for one, schedule in zip(labs, schedules, strict=True):
        with one.enable(schedule):
            alone.append(one.run())
    assert not alone[0].equal(alone[1])
    handles = [one.enable(schedule) for one, schedule in zip(labs, schedules, strict=True)]
    for _ in range(2):
        for one, expected, handle, schedule in zip(labs, alone, handles, schedules, strict=True):
            assert one.run().equal(expected)
            one.assert_follows(handle, schedule)
    handles[first_out].disable()
    assert labs[first_out].run().equal(plain)
    assert labs[1 - first_out].run().equal(alone[1 - first_out])
    handles[1 - first_out].disable()
    assert labs[1 - first_out].run().equal(plain)


def test_a_baseline_run_before_enabling_makes_no_difference(lab):
    with lab.enable():
        expected = lab.run()
    other = lab.another()
    other.run(seed=1)
    with other.enable():
        assert other.run().equal(expected)


def callback_that(action: Any, at: int) -> Any:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            action(pipe)
        return tensors

    return callback


def stop(pipe: Any) -> None:
    raise Stop


def interrupt(pipe: Any) -> None:
    pipe._interrupt = True


@pytest.mark.parametrize("at", [0, 1, 3, NUM_STEPS - 1])
@pytest.mark.parametrize("later", ["same size", "another size"])
def test_a_run_after_an_aborted_one_is_as_fresh(lab, at, later):
    changes = lab.larger if later == "another size" else {}
    with lab.enable():
        expected = lab.run(**changes)
    with lab.enable() as acceleration:
        with pytest.raises(Stop):
            lab.run(seed=1, callback_on_step_end=callback_that(stop, at))
        assert lab.run(**changes).equal(expected)
        lab.assert_follows(acceleration)


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("later", ["same size", "another size"])
def test_a_run_after_an_interrupted_one_is_as_fresh(lab, at, later):
    changes = lab.larger if later == "another size" else {}
    with lab.enable() as acceleration:
        expected = lab.run(**changes)
        lab.run(seed=1, callback_on_step_end=callback_that(interrupt, at))
        stats = acceleration.stats
        assert all(
            sorted(steps + stats.reused_steps.get(name, {}).get(branch, [])) == list(range(at + 1))
            for name, branches in stats.computed_steps.items()
            for branch, steps in branches.items()
        )
        assert lab.run(**changes).equal(expected)
        lab.assert_follows(acceleration)


@pytest.mark.parametrize("after", ["rerun", "disable"])
def test_an_error_in_the_middle_of_the_blocks_leaves_no_trace(lab, executors, after):
    plain = lab.run()
    layer = BlockCalls(lab.blocks[-1]).layer
    acceleration = lab.enable()
    expected = lab.run()
    calls = iter(range(3))

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise Stop

    handle = layer.register_forward_hook(fail)
    with pytest.raises(Stop):
        lab.run(seed=1)
    handle.remove()
    if after == "rerun":
        assert lab.run().equal(expected)
        lab.assert_follows(acceleration)
    else:
        assert held(executors)
        acceleration.disable()
        assert held(executors) == []
        assert lab.run().equal(plain)


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


def test_buffers_are_freed_when_the_trajectory_ends(lab, executors):
    seen: dict[int, list[weakref.ref[Tensor]]] = {}

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen[step] = [weakref.ref(tensor) for tensor in held(executors)]
        return tensors

    with lab.enable():
        lab.run(callback_on_step_end=look)
        assert [bool(seen[step]) for step in range(NUM_STEPS)] == [
            step + 1 in REUSE for step in range(NUM_STEPS)
        ]  # so after the last step, before the VAE, there is nothing
        assert held(executors) == []
        assert all(reference() is None for references in seen.values() for reference in references)


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


def test_the_config_is_what_was_given(lab):
    config = LeMiCaConfig(CacheSchedule(NUM_STEPS, COMPUTE))
    with enable_acceleration(lab.pipe, config) as acceleration:
        assert acceleration.configs == (config,)
