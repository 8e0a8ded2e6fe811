"""Presets, configs and overrides: what they resolve to, and what is said of those that there are not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dit_accel import DBCacheConfig, LeMiCaConfig, available_presets, enable_acceleration
from dit_accel.errors import ConfigError, DitAccelError, ScheduleError, UnknownPresetError
from dit_accel.pipelines import mochi, wan
from dit_accel.registry import _SPECS, find_spec
from dit_accel.schedule import CacheSchedule
from dit_accel.specs import Variant

from .conftest import attributes, run_tiny, tiny_pipeline

FAST, SLOW = CacheSchedule(6, (0, 3)), CacheSchedule(6, (0, 1, 2, 3))
DBCACHE = ["dbcache-fast", "dbcache-medium", "dbcache-slow"]
SVG2 = ["svg2", "svg2-turbo"]


@pytest.fixture
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture
def with_presets(pipe, monkeypatch) -> Any:
    """The pipeline as a published model with presets ``lemica-fast``, ``lemica-slow`` and ``nothing``."""
    presets = {
        "lemica-slow": lambda: (LeMiCaConfig(SLOW),),
        "lemica-fast": lambda: (LeMiCaConfig(FAST),),
        "nothing": lambda: (),
    }
    other = {"other-preset": lambda: (LeMiCaConfig(SLOW),)}
    spec = dataclasses.replace(
        wan.WAN,
        variants=(
            Variant("another", {"num_layers": 40}, other, ("WanPipeline",)),
            Variant("tiny", {"num_layers": 4, "num_attention_heads": 2}, presets, ("WanPipeline",)),
        ),
    )
    find_spec(pipe)
    for name in spec.pipelines:
        monkeypatch.setitem(_SPECS, name, spec)
    return pipe


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
        run_tiny(with_presets)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 3]


def test_a_schedule_file_is_as_good_as_a_preset(with_presets, tmp_path):
    path = str(tmp_path / "mine.json")
    FAST.save(path)
    with enable_acceleration(with_presets, f"{path}+nothing") as acceleration:
        assert acceleration.configs == (LeMiCaConfig(path),)
        run_tiny(with_presets)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 3]
    with pytest.raises(ScheduleError, match="There is no schedule file"):
        enable_acceleration(with_presets, str(tmp_path / "absent.json"))


def test_overrides_replace_fields(with_presets):
    with enable_acceleration(with_presets, "lemica-fast", schedule=SLOW, forecast="hold") as acceleration:
        assert acceleration.configs == (LeMiCaConfig(SLOW, forecast="hold"),)
        assert acceleration.configs[0].cache_schedule is SLOW
        run_tiny(with_presets)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "overrides", "error", "message"),
    [
        ((), {}, ConfigError, "Nothing to enable: give a preset name or a config"),
        (([],), {}, ConfigError, "Nothing to enable"),
        (("nothing",), {}, ConfigError, "Nothing to enable"),
        (("lemica-fast+lemica-slow",), {}, ConfigError, "Two configs of LeMiCaConfig were given"),
        (("lemica-fast", LeMiCaConfig(SLOW)), {}, ConfigError, "Two configs of LeMiCaConfig"),
        (
            (7,),
            {},
            ConfigError,
            "7 is neither a preset name nor a config. Use a string or one of: SVG2Config, DBCacheConfig, LeMiCa",
        ),
        ((FAST,), {}, ConfigError, "is neither a preset name nor a config"),
        ((None,), {}, ConfigError, "None is neither"),
        (("lemica-fast",), {"treshold": 1}, ConfigError, "No config has treshold. Fields.*forecast, reuse, schedule"),
        (("lemica-fast",), {"_resolved": FAST}, ConfigError, "No config has _resolved"),
        (("lemica-fast", DBCacheConfig()), {}, ConfigError, r"both decide.*DBCacheConfig\(compute_steps=SCHEDULE\)"),
        (("lemica-fast+dbcache-slow",), {}, ConfigError, "DBCacheConfig and LeMiCaConfig both decide"),
        (("dbcache-slow+dbcache-fast",), {}, ConfigError, "Two configs of DBCacheConfig were given"),
        (("dbcache-slow",), {"schedule": FAST}, ConfigError, "No config has schedule. Fields.*always_compute_last"),
        (("dbcache-slow",), {"probe_blocks": 0}, ConfigError, "probe_blocks must be an integer of at least 1, got 0"),
        (
            ("lemica-fast",),
            {"forecast": "taylor9"},
            ConfigError,
            "forecast='taylor9' is not allowed. Use one of: 'schedule', 'hold'",
        ),
        (("lemica-fast",), {"schedule": "no/such"}, ScheduleError, "No shipped schedule is called 'no/such'"),
        (
            ("lemica-fst",),
            {},
            UnknownPresetError,
            "WanPipeline has no preset 'lemica-fst'.*Did you mean 'lemica-fast'",
        ),
        (("lemica-fast+",), {}, UnknownPresetError, "WanPipeline has no preset ''"),
        (("other-preset",), {}, UnknownPresetError, "Presets: dbcache-fast, .*, lemica-fast, lemica-slow, nothing"),
    ],
)
def test_what_cannot_be_had_is_refused_and_nothing_is_left(with_presets, wanted, overrides, error, message):
    before = attributes(with_presets)
    with pytest.raises(error, match=message) as caught:
        enable_acceleration(with_presets, *wanted, **overrides)
    assert isinstance(caught.value, DitAccelError)
    assert attributes(with_presets) == before


def test_available_presets_are_those_of_the_family_and_the_variant_sorted(with_presets):
    assert available_presets(with_presets) == [*DBCACHE, "lemica-fast", "lemica-slow", "nothing", *SVG2]


@pytest.mark.parametrize("make", [wan.tiny, mochi.tiny])
def test_a_model_without_a_shipped_schedule_says_how_to_get_one(make):
    pipe = make()
    assert available_presets(pipe) == [*DBCACHE, *SVG2]
    with pytest.raises(
        UnknownPresetError, match=r"No LeMiCa schedule ships.*'dit-accel profile JOB\.toml'.*LeMiCaConfig"
    ):
        enable_acceleration(pipe, "lemica-fast")
    with pytest.raises(UnknownPresetError, match=r"Did you mean 'dbcache-fast'") as caught:
        enable_acceleration(pipe, "dbcache-fst")
    assert "dit-accel profile" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "threshold", "limit"), [("dbcache-slow", 0.04, 2), ("dbcache-medium", 0.08, 3), ("dbcache-fast", 0.16, 4)]
)
def test_every_dbcache_preset_reuses_more_the_faster_it_is(pipe, name, threshold, limit):
    with enable_acceleration(pipe, name) as acceleration:
        (config,) = acceleration.configs
        assert (config.residual_diff_threshold, config.max_continuous_cached_steps) == (threshold, limit)
        run_tiny(pipe)
        assert acceleration.stats.computed_steps["transformer"]["cond"][:4] == [0, 1, 2, 3]


def test_overrides_of_a_dbcache_preset(pipe):
    wanted = {"max_warmup_steps": 1, "residual_diff_threshold": 1e9, "compute_steps": [3], "corrector_blocks": 1}
    with enable_acceleration(pipe, "dbcache-slow", **wanted) as acceleration:
        (config,) = acceleration.configs
        assert (config.max_continuous_cached_steps, config.forced_steps, config.corrector_blocks) == (2, (3,), 1)
        run_tiny(pipe)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 3, 5]


def test_a_schedule_may_be_refined_by_the_probe(pipe):
    config = DBCacheConfig(compute_steps=FAST, max_warmup_steps=0, residual_diff_threshold=1e9)
    with enable_acceleration(pipe, config) as acceleration:
        run_tiny(pipe)
        assert acceleration.stats.computed_steps["transformer"]["cond"] == [0, 3, 5]
    with enable_acceleration(pipe, config, residual_diff_threshold=0) as acceleration:
        run_tiny(pipe)
        assert not acceleration.stats.reused_steps
