"""How runs end, what they keep meanwhile and what they share, on Wan only: nothing in it is of one family."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import disable_acceleration, enable_acceleration
from dit_accel.cache.executor import BlockRangeExecutor
from dit_accel.errors import AlreadyAcceleratedError, ScheduleMismatchError

from .conftest import COMPUTE, NUM_STEPS, REUSE, BlockCalls, Lab, attributes, held
from .settings import every_method

OTHER_COMPUTE = (0, 1, 5)
SIZES = ["same size", "another size"]


class Stop(Exception):
    """Raised in the middle of a run."""


def stop(pipe: Any) -> None:
    raise Stop


def interrupt(pipe: Any) -> None:
    pipe._interrupt = True


def callback_that(action: Any, at: int) -> Any:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            action(pipe)
        return tensors

    return callback


# However a run ends, the next one is as fresh


@every_method
@pytest.mark.parametrize("at", [0, 1, 3, NUM_STEPS - 1])
@pytest.mark.parametrize("later", SIZES)
def test_a_run_after_an_aborted_one_is_as_fresh(wan, method, at, later):
    changes = wan.larger if later == "another size" else {}
    with method.enable(wan):
        expected = wan.run(**changes)
    with method.enable(wan) as acceleration:
        with pytest.raises(Stop):
            wan.run(seed=1, callback_on_step_end=callback_that(stop, at))
        assert wan.run(**changes).equal(expected)
        wan.assert_follows(acceleration, method.compute)


@every_method
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("later", SIZES)
def test_a_run_after_an_interrupted_one_is_as_fresh(wan, method, at, later):
    changes = wan.larger if later == "another size" else {}
    with method.enable(wan) as acceleration:
        expected = wan.run(**changes)
        wan.run(seed=1, callback_on_step_end=callback_that(interrupt, at))
        stats = acceleration.stats
        for branch, steps in stats.computed_steps["transformer"].items():
            reused = stats.reused_steps.get("transformer", {}).get(branch, [])
            assert sorted(steps + reused) == list(range(at + 1))
        assert wan.run(**changes).equal(expected)
        wan.assert_follows(acceleration, method.compute)


@every_method
def test_disabling_after_an_error_in_a_block_frees_and_restores(wan, executors, method):
    acceleration = method.enable(wan)
    calls = iter(range(3))

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise Stop

    handle = BlockCalls(wan.blocks[-1]).layer.register_forward_hook(fail)
    with pytest.raises(Stop):
        wan.run(seed=1)
    handle.remove()
    assert held(executors)
    acceleration.disable()
    assert held(executors) == []
    assert wan.run().equal(wan.full)


@every_method
@pytest.mark.parametrize("inside", [0, 3])
def test_disabling_in_the_middle_of_a_run_frees_and_restores(wan, executors, method, inside):
    acceleration = method.enable(wan)
    before = attributes(wan.another())
    wan.run(callback_on_step_end=callback_that(lambda _: acceleration.disable(), inside))
    assert held(executors) == []
    assert attributes(wan) == before | {"": attributes(wan)[""]}  # a run gives the pipeline itself a few attributes
    assert wan.run().equal(wan.full)


@pytest.mark.parametrize("steps", [NUM_STEPS - 1, NUM_STEPS + 1])
@pytest.mark.parametrize("kind", ["schedule", "probe"])
def test_a_wrong_number_of_steps_is_refused_before_any_block_runs(wan, kind, steps):
    counters = [BlockCalls(block) for block in wan.blocks]
    schedule = wan.schedule()
    options = {"compute_steps": schedule.cache_schedule, "max_warmup_steps": 0, "max_continuous_cached_steps": None}
    with enable_acceleration(wan.pipe, schedule) if kind == "schedule" else wan.enable_dbcache(**options) as handle:
        expected = wan.run()
        for counter in counters:
            counter.count = 0
        for _ in range(2):
            with pytest.raises(ScheduleMismatchError, match=f"planned for {NUM_STEPS} steps, this run has {steps}"):
                wan.run(num_inference_steps=steps)
        assert [counter.count for counter in counters] == [0] * len(counters)
        assert wan.run().equal(expected)
        wan.assert_follows(handle)


# What is kept, and how long


def test_buffers_are_there_only_before_steps_that_reuse_them(wan, executors):
    seen: dict[int, list[weakref.ref[Tensor]]] = {}

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen[step] = [weakref.ref(tensor) for tensor in held(executors)]
        return tensors

    with wan.enable():
        wan.run(callback_on_step_end=look)
        # So after the last step, before the VAE, there is nothing.
        assert [bool(seen[step]) for step in range(NUM_STEPS)] == [step + 1 in REUSE for step in range(NUM_STEPS)]
        assert held(executors) == []
        assert all(reference() is None for references in seen.values() for reference in references)


@pytest.mark.parametrize(
    ("options", "last"),
    [({}, NUM_STEPS - 2), ({"always_compute_last": True}, NUM_STEPS - 3), ({"compute_steps": [6, 7]}, 4)],
)
def test_the_probe_keeps_until_the_last_step_that_it_may_still_reuse(wan, executors, options, last):
    seen = []

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(bool(held(executors)))
        return tensors

    with wan.enable_dbcache(**options):
        wan.run(callback_on_step_end=look)
    assert seen == [step <= last for step in range(NUM_STEPS)]


def entry_bytes(lab: Lab, **changes: Any) -> int:
    """Bytes of what enters the blocks in one call."""
    sizes: list[int] = []
    (found,) = lab.ranges().values()
    handle = found.blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(sum(t.nbytes for t in found.inputs(0, args, kwargs))), with_kwargs=True
    )
    lab.run(**changes)
    handle.remove()
    return sizes[0]


@pytest.mark.parametrize(
    ("options", "entries"),
    [({}, 1), ({"forecast": "taylor1"}, 2), ({"forecast": "taylor2"}, 3), ({"reuse": "output"}, None)],
)
def test_the_bytes_at_the_peak_are_those_of_an_entry_for_every_branch_and_order(wan, options, entries):
    with enable_acceleration(wan.pipe, wan.schedule((0, 1, 2, 4), **options)) as acceleration:
        latents = wan.run()
        peak = acceleration.stats.cache_bytes_peak
    assert peak == 2 * (latents.nbytes if entries is None else entries * entry_bytes(wan)) > 0


def test_the_probe_takes_as_many_bytes_again(wan):
    with wan.enable_dbcache() as acceleration:
        wan.run()
        assert acceleration.stats.cache_bytes_peak == 2 * 2 * entry_bytes(wan) > 0


def test_computing_every_step_keeps_nothing(wan):
    with wan.enable_all_compute() as acceleration:
        wan.run()
        assert acceleration.stats.cache_bytes_peak == 0


# Other calls


@every_method
def test_a_call_without_guidance_has_one_branch_and_half_the_bytes(wan, method):
    with method.enable(wan) as acceleration:
        wan.run()
        guided = acceleration.stats
        wan.run(guidance_scale=1.0)
        unguided = acceleration.stats
    assert set(guided.computed_steps["transformer"]) == {"cond", "uncond"}
    assert set(unguided.computed_steps["transformer"]) == {"cond"}
    assert 2 * unguided.cache_bytes_peak == guided.cache_bytes_peak


@every_method
def test_sizes_one_after_the_other_are_as_each_alone(wan, method):
    alone = []
    for changes in ({}, wan.larger):
        fresh = wan.another()
        with method.enable(fresh):
            alone.append(fresh.run(**changes))
    assert alone[0].shape != alone[1].shape
    with method.enable(wan):
        for size in (1, 0, 1):
            assert wan.run(**(wan.larger if size else {})).equal(alone[size])


@every_method
def test_the_prompts_of_a_batch_are_reused_each_for_itself(wan, method):
    prompts = ["a red seven moving left on navy", "a cyan one spinning on black"]
    with method.enable(wan) as acceleration:
        latents = wan.run(prompt=prompts)
        wan.assert_follows(acceleration, method.compute)
    with wan.enable():
        assert latents.shape[0] == 2 and not latents[0].equal(latents[1])


def test_the_video_itself_is_decoded(wan):
    """Past the latents the rest of the pipeline works as ever."""
    plain = wan.run(output_type="np")
    with wan.enable_all_compute():
        assert wan.run(output_type="np").equal(plain)
    with wan.enable():
        reused = wan.run(output_type="np")
    assert reused.shape == plain.shape and reused.isfinite().all()
    assert not reused.equal(plain)


@every_method
def test_stats_add_up_to_the_steps(wan, method):
    with method.enable(wan) as acceleration:
        assert acceleration.stats.num_steps == 0
        wan.run()
        stats = acceleration.stats
    for branch in ("cond", "uncond"):
        steps = stats.computed_steps["transformer"][branch] + stats.reused_steps["transformer"][branch]
        assert sorted(steps) == list(range(NUM_STEPS))
    assert 0 < stats.denoise_seconds < 60


# Pipelines that share a denoiser, or only a class


def test_disable_by_the_pipeline_is_the_same(wan):
    expected, before = wan.run(), attributes(wan)
    wan.enable()
    disable_acceleration(wan.pipe)
    disable_acceleration(wan.pipe)
    assert attributes(wan) == before
    assert wan.run().equal(expected)


@every_method
def test_a_pipeline_that_shares_the_denoiser_is_refused_until_it_is_free(wan, method):
    sharing = Lab(wan.spec, wan.name, type(wan.pipe)(**wan.pipe.components))
    assert sharing.calls
    with method.enable(wan) as acceleration, pytest.raises(AlreadyAcceleratedError, match="already accelerated"):
        sharing.enable()
    assert acceleration.stats.num_steps == 0
    sharing.enable().disable()


def test_a_pipeline_that_shares_an_accelerated_denoiser_makes_no_difference_to_its_owner(wan):
    sharing = Lab(wan.spec, wan.name, type(wan.pipe)(**wan.pipe.components))
    sharing.pipe.set_progress_bar_config(disable=True)
    with wan.enable() as acceleration:
        expected = wan.run()
        disable_acceleration(sharing.pipe)
        assert wan.run().equal(wan.full), "either may take it off"
        assert acceleration.stats.num_steps == NUM_STEPS
    assert not expected.equal(wan.full)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_pipelines_of_one_class_do_not_interact(wan, first_out):
    labs, schedules = (wan, wan.another()), (COMPUTE, OTHER_COMPUTE)
    alone = []
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
    assert labs[first_out].run().equal(wan.full)
    assert labs[1 - first_out].run().equal(alone[1 - first_out])
    handles[1 - first_out].disable()
    assert labs[1 - first_out].run().equal(wan.full)


def test_training_through_an_accelerated_denoiser_has_its_gradients(wan):
    """A graph through a reused residual would be silently wrong."""
    given: dict[str, Any] = {}
    transformer = wan.pipe.transformer
    handle = transformer.register_forward_pre_hook(
        lambda _, args, kwargs: given.setdefault("call", (args, kwargs)) and None, with_kwargs=True
    )
    wan.run()
    handle.remove()
    args, kwargs = given["call"]
    weight = transformer.blocks[0].attn1.to_q.weight

    def gradient() -> Tensor:
        transformer.zero_grad()
        transformer(*args, **kwargs)[0].square().sum().backward()
        return weight.grad.clone()

    expected = gradient()
    with wan.enable((0,)):
        wan.run(callback_on_step_end=callback_that(lambda pipe: setattr(pipe, "_interrupt", True), 1))
        with torch.enable_grad():
            assert gradient().equal(expected)
    transformer.zero_grad()
    assert BlockRangeExecutor.__name__  # the executor is of no concern here
