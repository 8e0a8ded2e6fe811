"""9. Offload, compilation and context parallelism, before or after.

Caches that are hooks of diffusers 0.42.1 depend on the order: after ``enable_model_cpu_offload`` a hook on the
transformer is gone from the second call on, with streamed group offload those that come later are dropped after the
first forward, and after ``enable_parallelism`` a cache fails in an addition. cache-dit 1.5.3 says in its code that it
does not get on with group offload, and breaks the graph of a compiled transformer in several places. It also accepts a
transformer with a cache of diffusers on it.

Context parallelism in either order is in ``test_11_ranks.py``, with all methods in ``tests/parallel``; all settings,
also on other families, are in ``tests/contract``.
"""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers import FirstBlockCacheConfig, MagCacheConfig
from diffusers.hooks import HookRegistry, ModelHook, apply_first_block_cache, apply_mag_cache

from dit_accel import enable_acceleration
from dit_accel.errors import AlreadyAcceleratedError
from dit_accel.registry import find_spec
from tests.contract.conftest import Lab
from tests.contract.settings import SETTINGS, every_order
from tests.serving.conftest import SCHEDULE, run, tiny

from .conftest import METHODS, alone, each_kind, enable

OFFLOADS = ("model CPU offload", "sequential CPU offload", "group offload by blocks")
MAG = MagCacheConfig(num_inference_steps=6, mag_ratios=[1.0] * 6)
FIRST_BLOCK = FirstBlockCacheConfig(threshold=0.1)


def lab_of(pipe):
    spec = find_spec(pipe)
    return Lab(spec, f"{type(pipe).__module__}.{type(pipe).__name__}", pipe)


@each_kind
@every_order
@pytest.mark.parametrize("setting", OFFLOADS)
def test_offload_changes_nothing(pipe, folder, setting, order, method):
    run(pipe)
    if order == "before":
        SETTINGS[setting].apply(lab_of(pipe))
        run(pipe)
    handle = enable(pipe, method)
    if order == "after":
        run(pipe)
        SETTINGS[setting].apply(lab_of(pipe))
    for _ in range(2):
        assert run(pipe).equal(alone(method))
    handle.disable()
    assert run(pipe).equal(alone(None))


@every_order
@pytest.mark.parametrize("method", ["lemica", "planned"])
def test_compiled_blocks_are_as_if_compiled_first(pipe, fresh_compiler, order, method):
    """Attention through an operator in a graph may differ in the last bit from the same outside, so not as eager."""
    compiled = tiny()
    SETTINGS["compile in place"].apply(lab_of(compiled))
    plain = run(compiled)
    with enable(compiled, method):
        expected = run(compiled)
    if order == "before":
        SETTINGS["compile in place"].apply(lab_of(pipe))
    handle = enable(pipe, method)
    if order == "after":
        run(pipe)
        SETTINGS["compile in place"].apply(lab_of(pipe))
    assert run(pipe).equal(expected)
    handle.disable()
    assert run(pipe).equal(plain)


@pytest.mark.parametrize("config", [FIRST_BLOCK, MAG], ids=["FirstBlockCache", "MagCache"])
@pytest.mark.parametrize("method", ["lemica", "svg2"])
def test_a_cache_of_diffusers_is_refused_in_either_order(pipe, config, method):
    with enable(pipe, method):
        with pytest.raises(AlreadyAcceleratedError, match=r"CacheConfig asks for a diffusers cache besides.*disable"):
            pipe.transformer.enable_cache(config)
        assert run(pipe).equal(alone(method))
    pipe.transformer.enable_cache(config)
    with pytest.raises(AlreadyAcceleratedError, match=r"disable_cache\(\)"):
        enable(pipe, method)
    pipe.transformer.disable_cache()
    assert run(pipe).equal(alone(None))


@pytest.mark.parametrize(
    ("apply", "config"), [(apply_first_block_cache, FIRST_BLOCK), (apply_mag_cache, MAG)], ids=["first block", "mag"]
)
def test_a_cache_that_was_applied_by_a_function_is_refused_too(pipe, apply, config):
    apply(pipe.transformer, config)
    with pytest.raises(AlreadyAcceleratedError, match=r"has hooks of a diffusers cache on it: \w+Hook"):
        enable_acceleration(pipe, *METHODS["dbcache"])


def test_cache_dit_is_refused(pipe):
    """It marks the transformers that it has changed."""
    pipe.transformer._is_cached = True
    with pytest.raises(AlreadyAcceleratedError, match=r"cached by cache-dit.*cache_dit\.disable_cache\(pipe\)"):
        enable_acceleration(pipe, SCHEDULE)


def hooked_above_offload(pipe):
    """accelerate's hooks on the blocks, and diffusers' around them."""
    cpu_offload(pipe.transformer, torch.device("cpu"))
    for block in pipe.transformer.blocks:
        HookRegistry.check_if_exists_or_initialize(block).register_hook(ModelHook(), "listed")


@pytest.mark.parametrize("is_hooked_again", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_hooks_that_are_listed_and_no_longer_called_take_nothing_in(pipe, method, is_hooked_again):
    """accelerate's hooks, removed from under diffusers': the blocks have their own forward again, the list is full."""
    hooked_above_offload(pipe)
    remove_hook_from_module(pipe.transformer, recurse=True)
    if is_hooked_again:
        for block in pipe.transformer.blocks:
            block._diffusers_hook.register_hook(ModelHook(), "called")
    handle = enable(pipe, method)
    assert run(pipe).equal(alone(method))
    handle.disable()
    assert run(pipe).equal(alone(None))


@pytest.mark.parametrize("method", METHODS)
def test_offload_that_is_removed_from_under_hooks_takes_no_acceleration_with_it(pipe, method):
    hooked_above_offload(pipe)
    handle = enable(pipe, method)
    assert run(pipe).equal(alone(method))
    remove_hook_from_module(pipe.transformer, recurse=True)
    assert run(pipe).equal(alone(method))
    handle.disable()
    assert run(pipe).equal(alone(None))
