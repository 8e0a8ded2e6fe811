"""Kinds of call, and pipelines that share a denoiser or only a class, on Wan only: nothing in it is of one family."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from dit_accel import disable_acceleration
from dit_accel.errors import AlreadyAcceleratedError

from .conftest import COMPUTE, NUM_STEPS, Lab, attributes
from .settings import every_method

OTHER_COMPUTE = (0, 1, 5)


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
def test_a_batch_follows_the_same_steps(wan, method):
    prompts = ["a red seven moving left on navy", "a cyan one spinning on black"]
    plain = wan.run(prompt=prompts)
    with method.enable(wan) as acceleration:
        latents = wan.run(prompt=prompts)
        wan.assert_follows(acceleration, method.compute)
    assert latents.shape == plain.shape and len(latents) == 2
    assert not any(one.equal(other) for one, other in zip(latents, plain, strict=True))


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
    plain, alone = wan.full, []
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


def test_a_forward_with_gradients_is_never_reused(wan):
    """A graph through a kept residual would be silently wrong."""
    given: list[Any] = []
    transformer = wan.pipe.transformer
    handle = transformer.register_forward_pre_hook(lambda _, *call: given.append(call), with_kwargs=True)
    wan.run()
    handle.remove()
    args, kwargs = given[0]

    def gradient() -> Tensor:
        transformer.zero_grad()
        transformer(*args, **kwargs)[0].square().sum().backward()
        return transformer.blocks[0].attn1.to_q.weight.grad.clone()

    expected = gradient()
    with wan.enable((0,)) as acceleration:
        wan.run(callback_on_step_end=lambda pipe, step, *_: setattr(pipe, "_interrupt", step == 1) or {})
        with transformer.cache_context("cond"):  # as step 2, at which there is a residual to reuse
            assert gradient().equal(expected)
            assert 2 in acceleration.stats.computed_steps["transformer"]["cond"]
    transformer.zero_grad()
