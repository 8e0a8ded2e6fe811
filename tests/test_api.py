"""What users can ask for, and what they are told when it cannot be had."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanPipeline

import dit_accel
from dit_accel import LeMiCaConfig, available_presets, disable_acceleration, enable_acceleration
from dit_accel.cache import install
from dit_accel.errors import (
    AlreadyAcceleratedError,
    ConfigError,
    DitAccelError,
    ScheduleError,
    UnknownPresetError,
    UnsupportedPipelineError,
)
from dit_accel.pipelines import wan
from dit_accel.registry import _SPECS, all_specs, find_spec, find_variant, register_pipeline
from dit_accel.schedule import CacheSchedule
from dit_accel.specs import PipelineSpec, Variant

FAST, SLOW = CacheSchedule(6, (0, 3)), CacheSchedule(6, (0, 1, 2, 3))


@pytest.fixture
def pipe() -> Any:
    pipe = wan.tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def with_presets(pipe, monkeypatch) -> Any:
    """The pipeline as a published model with presets ``lemica-fast``, ``lemica-slow`` and ``nothing``."""
    presets = {
        "lemica-slow": lambda: (LeMiCaConfig(SLOW),),
        "lemica-fast": lambda: (LeMiCaConfig(FAST),),
        "nothing": lambda: (),
    }
    spec = PipelineSpec(
        family="wan",
        pipeline_classes=wan.WAN.pipeline_classes,
        denoisers=wan.WAN.denoisers,
        blocks=wan.WAN.blocks,
        tiny=wan.tiny,
        tiny_inputs=wan.WAN.tiny_inputs,
        variants=(
            Variant("another", {"num_layers": 40}, {"other-preset": lambda: (LeMiCaConfig(SLOW),)}),
            Variant("tiny", {"num_layers": 4, "num_attention_heads": 2}, presets),
        ),
    )
    find_spec(pipe)
    for name in spec.pipeline_classes:
        monkeypatch.setitem(_SPECS, name, spec)
    return pipe


def run(pipe: Any) -> torch.Tensor:
    return pipe(
        prompt="a red seven spinning on navy",
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        return_dict=False,
        **wan.WAN.tiny_inputs,
    )[0]


def attributes(pipe: Any) -> Any:
    modules = pipe.transformer.named_modules()
    return {n: (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules}


@pytest.mark.parametrize(
    "wanted",
    [
        ("lemica-fast",),
        (["lemica-fast"],),
        ((("lemica-fast",),),),
        ("lemica-fast+nothing",),
        ("nothing+lemica-fast",),
        ("nothing", "lemica-fast"),
        (LeMiCaConfig(FAST),),
        (["nothing", [LeMiCaConfig(FAST)]],),
    ],
)
def test_presets_and_configs_resolve(with_presets, wanted):
    with enable_acceleration(with_presets, *wanted) as acceleration:
        assert acceleration.configs == (LeMiCaConfig(FAST),)
        run(with_presets)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 3]


def test_overrides_replace_fields(with_presets):
    with enable_acceleration(with_presets, "lemica-fast", schedule=SLOW, forecast="hold") as acceleration:
        assert acceleration.configs == (LeMiCaConfig(SLOW),)
        assert acceleration.configs[0].cache_schedule is SLOW
        run(with_presets)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "overrides", "error", "message"),
    [
        ((), {}, ConfigError, "Nothing to enable: give a preset name or a config"),
        (([],), {}, ConfigError, "Nothing to enable"),
        (("nothing",), {}, ConfigError, "Nothing to enable"),
        (("lemica-fast+lemica-slow",), {}, ConfigError, "Two configs of LeMiCaConfig were given"),
        (("lemica-fast", LeMiCaConfig(SLOW)), {}, ConfigError, "Two configs of LeMiCaConfig"),
        ((7,), {}, ConfigError, "7 is neither a preset name nor a config. Use a string or one of: LeMiCaConfig"),
        ((FAST,), {}, ConfigError, "is neither a preset name nor a config"),
        ((None,), {}, ConfigError, "None is neither"),
        (("lemica-fast",), {"treshold": 1}, ConfigError, "No config has treshold. Fields.*forecast, reuse, schedule"),
        (("lemica-fast",), {"_resolved": FAST}, ConfigError, "No config has _resolved"),
        (
            ("lemica-fast",),
            {"forecast": "taylor9"},
            ConfigError,
            "forecast='taylor9' is not allowed. Use one of: 'hold'",
        ),
        (("lemica-fast",), {"schedule": "no/such"}, ScheduleError, "No shipped schedule is called 'no/such'"),
        (
            ("lemica-fst",),
            {},
            UnknownPresetError,
            "WanPipeline has no preset 'lemica-fst'.*Did you mean 'lemica-fast'",
        ),
        (("lemica-fast+",), {}, UnknownPresetError, "WanPipeline has no preset ''"),
        (("other-preset",), {}, UnknownPresetError, "Presets: lemica-fast, lemica-slow, nothing"),
    ],
)
def test_what_cannot_be_had_is_refused_and_nothing_is_left(with_presets, wanted, overrides, error, message):
    before = attributes(with_presets)
    with pytest.raises(error, match=message) as caught:
        enable_acceleration(with_presets, *wanted, **overrides)
    assert isinstance(caught.value, DitAccelError)
    assert attributes(with_presets) == before


def test_available_presets_are_those_of_the_variant_sorted(with_presets):
    assert available_presets(with_presets) == ["lemica-fast", "lemica-slow", "nothing"]


def test_a_model_without_shipped_presets_has_none_and_says_how_to_get_one(pipe):
    assert available_presets(pipe) == []
    with pytest.raises(UnknownPresetError, match=r"no schedule ships for.*dit-accel profile"):
        enable_acceleration(pipe, "lemica-fast")


class StrangePipeline:
    """No family covers it."""

    transformer = None


class WanPipelin(StrangePipeline):
    """Nor this, but the name is near to one that is."""


@pytest.mark.parametrize("verb", [lambda p: enable_acceleration(p, "x"), disable_acceleration, available_presets])
def test_an_unknown_pipeline_is_refused_with_the_supported_ones(verb):
    with pytest.raises(UnsupportedPipelineError, match=r"StrangePipeline is not supported. Supported: .*WanPipeline"):
        verb(StrangePipeline())
    with pytest.raises(UnsupportedPipelineError, match="Did you mean 'WanPipeline'"):
        verb(WanPipelin())


def test_a_subclass_of_a_supported_pipeline_works(pipe):
    class MyPipeline(WanPipeline):
        """With a user's additions."""

    mine = MyPipeline(**pipe.components)
    mine.set_progress_bar_config(disable=True)
    with enable_acceleration(mine, LeMiCaConfig(FAST)) as acceleration:
        run(mine)
        assert acceleration.stats.reused_steps["transformer"]["cond"] == [1, 2, 4, 5]


def test_a_pipeline_without_any_denoiser_is_refused(pipe):
    empty = WanPipeline(**{**pipe.components, "transformer": None, "transformer_2": None})
    assert available_presets(empty) == []
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


@pytest.mark.parametrize("function", ["wrap_block", "observe_calls"])
def test_a_failure_half_way_through_installing_unwinds_everything(pipe, monkeypatch, function):
    expected, before = run(pipe), attributes(pipe)
    original, left = getattr(install, function), [2 if function == "wrap_block" else 0]

    def fail(*args: Any) -> Any:
        if not left[0]:
            raise OSError("half-way")
        left[0] -= 1
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(install, function, fail)
        with pytest.raises(OSError, match="half-way"):
            enable_acceleration(pipe, LeMiCaConfig(FAST))
    assert attributes(pipe) == before
    assert run(pipe).equal(expected)
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
        run(pipe)
        assert second.stats.computed_steps["transformer"]["cond"] == [0, 1, 2, 3]


def test_stats_stay_readable_after_disable(pipe):
    with enable_acceleration(pipe, LeMiCaConfig(FAST)) as acceleration:
        run(pipe)
    assert acceleration.stats.num_steps == 6


def test_disabling_what_was_never_enabled_does_nothing(pipe):
    before = attributes(pipe)
    disable_acceleration(pipe)
    assert attributes(pipe) == before


def test_a_class_cannot_be_covered_twice():
    with pytest.raises(UnsupportedPipelineError, match="already covered by the family 'wan'"):
        register_pipeline(
            PipelineSpec("other", wan.WAN.pipeline_classes, ("transformer",), wan.WAN.blocks, wan.tiny, {})
        )
    assert all_specs().count(wan.WAN) == 1


def test_a_variant_needs_all_of_its_values(with_presets):
    spec = find_spec(with_presets)
    assert find_variant(with_presets, spec).name == "tiny"
    one_off = Variant("one-off", {"num_layers": 4, "num_attention_heads": 3}, {})
    assert (
        find_variant(with_presets, PipelineSpec("x", (), ("transformer",), spec.blocks, wan.tiny, {}, (one_off,)))
        is None
    )


def test_every_public_name_is_there_and_listed():
    assert dir(dit_accel) == sorted([*dit_accel.__all__, "__version__"])
    assert len(dit_accel.__all__) <= 15
    for name, module in dit_accel._LAZY.items():
        assert getattr(dit_accel, name) is getattr(importlib.import_module(f"dit_accel.{module}"), name)
        assert name in dit_accel.__all__
    with pytest.raises(AttributeError, match="no attribute 'enable_cache'"):
        _ = dit_accel.enable_cache
