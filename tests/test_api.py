"""Enabling and disabling: on which pipelines, what is refused, and that nothing is left."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from diffusers import FirstBlockCacheConfig, WanPipeline
from torch import nn

import dit_accel
from dit_accel import (
    DBCacheConfig,
    LeMiCaConfig,
    available_presets,
    disable_acceleration,
    enable_acceleration,
    installation,
)
from dit_accel.cache import install
from dit_accel.errors import AlreadyAcceleratedError, ConfigError, UnsupportedPipelineError
from dit_accel.schedule import CacheSchedule

from .conftest import attributes, run_tiny, tiny_pipeline

FAST, SLOW = CacheSchedule(6, (0, 3)), CacheSchedule(6, (0, 1, 2, 3))


@pytest.fixture
def pipe() -> Any:
    return tiny_pipeline()


@pytest.mark.parametrize(("probe", "corrector"), [(4, 0), (1, 3), (3, 1), (40, 40)])
def test_probe_and_corrector_that_leave_nothing_to_cache_are_refused_when_enabling(pipe, probe, corrector):
    before = attributes(pipe)
    with pytest.raises(ConfigError, match=r"transformer \(WanTransformer3DModel\) has 4 blocks.*at most 3"):
        enable_acceleration(pipe, DBCacheConfig(probe_blocks=probe, corrector_blocks=corrector))
    assert attributes(pipe) == before


def test_one_block_less_is_enough(pipe):
    enable_acceleration(pipe, DBCacheConfig(probe_blocks=1, corrector_blocks=2)).disable()


def test_a_second_denoiser_with_fewer_blocks_is_refused_and_nothing_is_left_on_the_first(pipe):
    second = tiny_pipeline().transformer
    second.blocks = nn.ModuleList(list(second.blocks)[:2])
    both = WanPipeline(**{**pipe.components, "transformer_2": second, "boundary_ratio": 0.5})
    before = attributes(both)
    with pytest.raises(ConfigError, match=r"transformer_2 \(WanTransformer3DModel\) has 2 blocks.*at most 1"):
        enable_acceleration(both, DBCacheConfig(probe_blocks=2))
    assert attributes(both) == before


def test_a_subclass_of_a_supported_pipeline_works(pipe):
    class MyPipeline(WanPipeline):
        """With a user's additions."""

    mine = MyPipeline(**pipe.components)
    mine.set_progress_bar_config(disable=True)
    with enable_acceleration(mine, LeMiCaConfig(FAST)) as acceleration:
        run_tiny(mine)
        assert acceleration.stats.reused_steps["transformer"]["cond"] == [1, 2, 4, 5]


def test_a_pipeline_without_any_denoiser_is_refused(pipe):
    empty = WanPipeline(**{**pipe.components, "transformer": None, "transformer_2": None})
    assert "dbcache-fast" in available_presets(empty)
    with pytest.raises(UnsupportedPipelineError, match="has no denoiser: transformer, transformer_2"):
        enable_acceleration(empty, LeMiCaConfig(FAST))


def test_only_the_second_denoiser_is_enough(pipe):
    components = {**pipe.components, "transformer": None, "transformer_2": pipe.transformer, "boundary_ratio": 1.0}
    only_second = WanPipeline(**components)
    message = r"WanPipeline\.transformer is already"
    with (
        enable_acceleration(only_second, LeMiCaConfig(FAST)),
        pytest.raises(AlreadyAcceleratedError, match=message),
    ):
        enable_acceleration(pipe, LeMiCaConfig(FAST))


def test_diffusers_own_cache_is_refused_until_it_is_disabled(pipe):
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    before = attributes(pipe)
    with pytest.raises(
        AlreadyAcceleratedError, match=r"WanPipeline\.transformer has a diffusers cache.*disable_cache\(\)"
    ):
        enable_acceleration(pipe, LeMiCaConfig(FAST))
    assert attributes(pipe) == before
    pipe.transformer.disable_cache()
    enable_acceleration(pipe, LeMiCaConfig(FAST)).disable()


@pytest.mark.parametrize(("module", "function"), [(install, "wrap_forward"), (installation, "observe_calls")])
def test_a_failure_half_way_through_installing_unwinds_everything(pipe, monkeypatch, module, function):
    expected, before = run_tiny(pipe), attributes(pipe)
    original, left = getattr(module, function), [2 if function == "wrap_forward" else 0]

    def fail(*args: Any) -> Any:
        if not left[0]:
            raise OSError("half-way")
        left[0] -= 1
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        with pytest.raises(OSError, match="half-way"):
            enable_acceleration(pipe, LeMiCaConfig(FAST))
    assert attributes(pipe) == before
    assert run_tiny(pipe).equal(expected)
    enable_acceleration(pipe, LeMiCaConfig(FAST)).disable()


def test_the_context_manager_disables_also_after_an_error(pipe):
    before = attributes(pipe)
    with pytest.raises(KeyError), enable_acceleration(pipe, LeMiCaConfig(FAST)):
        assert attributes(pipe) != before
        raise KeyError
    assert attributes(pipe) == before


def test_disable_may_be_called_again_and_does_not_touch_a_later_acceleration(pipe):
    first = enable_acceleration(pipe, LeMiCaConfig(FAST))
    first.disable()
    with enable_acceleration(pipe, LeMiCaConfig(SLOW)) as second:
        first.disable()
        run_tiny(pipe)
        assert second.stats.computed_steps["transformer"]["cond"] == [0, 1, 2, 3]


def test_stats_stay_readable_after_disable(pipe):
    with enable_acceleration(pipe, LeMiCaConfig(FAST)) as acceleration:
        run_tiny(pipe)
    assert acceleration.stats.num_steps == 6


def test_disabling_what_was_never_enabled_does_nothing(pipe):
    before = attributes(pipe)
    disable_acceleration(pipe)
    assert attributes(pipe) == before


def test_every_public_name_is_there_and_listed():
    assert dir(dit_accel) == sorted([*dit_accel.__all__, "__version__"])
    assert len(dit_accel.__all__) <= 16
    for name, module in dit_accel._LAZY.items():
        assert getattr(dit_accel, name) is getattr(importlib.import_module(f"dit_accel.{module}"), name)
        assert name in dit_accel.__all__
    with pytest.raises(AttributeError, match="no attribute 'enable_cache'"):
        _ = dit_accel.enable_cache
