"""Wan 2.2: one trajectory over two denoisers, each with residuals of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from dit_accel import CacheSchedule, LeMiCaConfig, enable_acceleration
from dit_accel.registry import all_specs

NUM_STEPS = 8


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    base = all_specs()[0].tiny()
    low_noise = copy.deepcopy(base.transformer)
    nn.init.normal_(low_noise.proj_out.weight, generator=torch.Generator().manual_seed(3))
    built = WanPipeline(**{**base.components, "transformer_2": low_noise, "boundary_ratio": 0.75})
    built.set_progress_bar_config(disable=True)
    return built


def run(pipe: WanPipeline) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = all_specs()[0].tiny_inputs
    output = pipe("a red one", num_inference_steps=NUM_STEPS, generator=generator, output_type="latent", **inputs)
    return output.frames


def schedule(*compute_steps: int) -> LeMiCaConfig:
    return LeMiCaConfig(CacheSchedule(NUM_STEPS, compute_steps))


def test_all_compute_is_bit_identical_and_so_is_disabled(pipe: WanPipeline) -> None:
    full = run(pipe)
    with enable_acceleration(pipe, schedule(*range(NUM_STEPS))):
        assert torch.equal(run(pipe), full)
    assert torch.equal(run(pipe), full)


def test_every_step_is_counted_once_and_a_new_denoiser_computes_first(pipe: WanPipeline) -> None:
    full = run(pipe)
    with enable_acceleration(pipe, schedule(0)) as acceleration:
        accelerated = run(pipe)
        stats = acceleration.stats
    assert set(stats.computed_steps) == {"transformer", "transformer_2"}
    for branch in ("cond", "uncond"):
        computed = [stats.computed_steps[name][branch] for name in ("transformer", "transformer_2")]
        reused = [stats.reused_steps[name][branch] for name in ("transformer", "transformer_2")]
        assert sorted(step for steps in computed + reused for step in steps) == list(range(NUM_STEPS))
        # Nothing of the first denoiser may be reused by the second: it computes its first step though not scheduled.
        assert computed[0] == [0] and len(computed[1]) == 1 and computed[1][0] > max(reused[0])
    assert not torch.equal(accelerated, full)
    assert torch.isfinite(accelerated).all()
