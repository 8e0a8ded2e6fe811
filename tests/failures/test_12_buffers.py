"""12. Buffers that are held after the loop.

cache-dit 1.5.3 and diffusers 0.42.1's caches keep their residuals through the decoding of the VAE, where memory is
scarcest; cache-dit also from call to call.
"""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from diffusers import WanPipeline

from tests.serving.conftest import run, tiny
from tests.serving.test_memory import live_bytes

from .conftest import METHODS, enable


def two_denoisers():
    parts = tiny().components
    second = copy.deepcopy(parts["transformer"])
    torch.nn.init.normal_(second.proj_out.weight, generator=torch.Generator().manual_seed(3))
    pipe = WanPipeline(**{**parts, "transformer_2": second, "boundary_ratio": 0.8})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def watch_decoding(pipe, look):
    """Have ``look`` called whenever the VAE begins to decode."""
    original = pipe.vae.decode

    def decode(*args, **kwargs):
        look()
        return original(*args, **kwargs)

    pipe.vae.decode = decode


@pytest.mark.parametrize("method", METHODS)
def test_when_the_vae_decodes_as_much_is_alive_as_without_acceleration(pipe, method):
    """But for a few numbers of the stats."""
    if sys.gettrace() is not None:
        pytest.skip("a frame that is traced, as for coverage, keeps its locals")
    found = []
    run(pipe, output_type="pt")  # after which diffusers keeps a registry, and the scheduler the last outputs
    watch_decoding(pipe, lambda: found.append(live_bytes()))
    run(pipe, output_type="pt")
    with enable(pipe, method) as acceleration:
        run(pipe, output_type="pt")
        assert acceleration.stats.cache_bytes_peak > 500
        record = acceleration._installation.run_of(pipe).record
        assert record.cache_bytes == 0
    plain, accelerated = found
    assert accelerated - plain < 200


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_held_of_either_of_two_denoisers(method):
    pipe, held = two_denoisers(), []
    with enable(pipe, method) as acceleration:
        record = acceleration._installation.run_of(pipe).record
        watch_decoding(pipe, lambda: held.append(record.cache_bytes))
        for _ in range(2):
            run(pipe, output_type="pt")
            assert set(acceleration.stats.computed_steps) == {"transformer", "transformer_2"}
            assert acceleration.stats.cache_bytes_peak > 500
    assert held == [0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_held_for_guidance_that_ended_early(pipe, method):
    def end_guidance(pipe, step, timestep, tensors):
        if step == 2:
            pipe._guidance_scale = 1.0
        return {}

    with enable(pipe, method) as acceleration:
        run(pipe, callback_on_step_end=end_guidance)
        assert acceleration.stats.cache_bytes_peak > 500
        assert acceleration._installation.run_of(pipe).record.cache_bytes == 0
