"""The user's knobs: what each takes, and what is said of what it does not take."""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig
from dit_accel.errors import ConfigError, ScheduleError

SCHEDULE = CacheSchedule(6, (0, 3))
HUGE = 10**400
NAN, INF = float("nan"), float("inf")


def refused(kind: type, **fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        kind(**fields)
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__}: ") and len(message) < 250
    return message


@pytest.mark.parametrize("value", [-1, 0, 1.0, 1.5, True, False, "1", None, NAN, INF, [1], HUGE * -1])
def test_probe_blocks_is_an_integer_of_at_least_one(value):
    message = refused(DBCacheConfig, probe_blocks=value)
    assert "probe_blocks must be an integer of at least 1, got " in message
    if value != -HUGE:
        assert message.endswith(f"got {value!r}.")


@pytest.mark.parametrize("value", [-1, 0.0, True, "0", None, NAN, INF])
@pytest.mark.parametrize("name", ["corrector_blocks", "max_warmup_steps"])
def test_counts_are_integers_of_at_least_zero(name, value):
    assert refused(DBCacheConfig, **{name: value}).endswith(f"{name} must be an integer of at least 0, got {value!r}.")


@pytest.mark.parametrize("value", [-1, 2.0, True, "3", NAN, INF])
@pytest.mark.parametrize("name", ["max_cached_steps", "max_continuous_cached_steps"])
def test_limits_are_integers_of_at_least_zero_or_none(name, value):
    message = refused(DBCacheConfig, **{name: value})
    assert message.endswith(f"{name} must be an integer of at least 0 or None, got {value!r}.")


@pytest.mark.parametrize("value", [-0.1, -1, NAN, INF, -INF, True, False, "0.1", None, [0.1], HUGE])
def test_the_threshold_is_a_finite_number_of_at_least_zero(value):
    message = refused(DBCacheConfig, residual_diff_threshold=value)
    assert "residual_diff_threshold must be a finite number of at least 0, got " in message
    if value is not HUGE:
        assert message.endswith(f"got {value!r}.")


@pytest.mark.parametrize("value", [0, 1, None, "yes", 1.0])
def test_a_switch_is_true_or_false(value):
    assert refused(DBCacheConfig, always_compute_last=value).endswith(
        f"always_compute_last must be True or False, got {value!r}."
    )


@pytest.mark.parametrize("value", ["taylor3", "Hold", "", None, 1, True, ["hold"], b"hold"])
def test_an_unknown_forecast_is_met_with_those_there_are(value):
    names = "'hold', 'taylor1', 'taylor2'"
    message = refused(DBCacheConfig, forecast=value)
    assert message.endswith(f"forecast={value!r} is not allowed. Use one of: {names}.")
    message = refused(LeMiCaConfig, schedule=SCHEDULE, forecast=value)
    assert message.endswith(f"forecast={value!r} is not allowed. Use one of: 'schedule', {names}.")


@pytest.mark.parametrize("value", ["outputs", "", None, 1, True])
def test_an_unknown_reuse_is_met_with_those_there_are(value):
    message = refused(LeMiCaConfig, schedule=SCHEDULE, reuse=value)
    assert message.endswith(f"reuse={value!r} is not allowed. Use one of: 'residual', 'output'.")


@pytest.mark.parametrize(
    "value",
    [[-1], [1.0], [True], ["1"], [None], [[1]], [NAN], 3, 2.5, True, {1, 2}, {1: 2}, deque([1]), range(10**12)],
)
def test_forced_steps_are_a_schedule_or_step_indices(value):
    message = refused(DBCacheConfig, compute_steps=value)
    wanted = "compute_steps must be a schedule or a sequence of step indices of at least 0, at most 10000, got "
    assert wanted in message
    assert repr(value)[:60] in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("digits-wan/lemica-fst", "Did you mean 'digits-wan/lemica-fast'?"),
        ("absent.json", "There is no schedule file at absent.json"),
        (Path("absent"), "There is no schedule file at absent"),
    ],
)
def test_a_schedule_that_is_not_there_is_a_schedule_error(value, words):
    for make in (lambda: DBCacheConfig(compute_steps=value), lambda: LeMiCaConfig(value)):
        with pytest.raises(ScheduleError) as caught:
            make()
        assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, [0, 3], True])
def test_lemica_takes_nothing_but_a_schedule(value):
    with pytest.raises(ScheduleError, match="A schedule is a name, a path or a CacheSchedule"):
        LeMiCaConfig(value)


@pytest.mark.parametrize(
    "fields",
    [
        {"probe_blocks": 1, "corrector_blocks": 0, "max_warmup_steps": 0},
        {"residual_diff_threshold": 0, "max_cached_steps": 0, "max_continuous_cached_steps": 0},
        {"residual_diff_threshold": 1e9, "max_cached_steps": None, "max_continuous_cached_steps": None},
        {"forecast": "taylor2", "always_compute_last": False},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(fields):
    config = DBCacheConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("value", "forced"),
    [(None, ()), ([], ()), ([3, 1], (3, 1)), ((0, 2), (0, 2)), (range(0, 6, 2), (0, 2, 4)), (SCHEDULE, (0, 3))],
)
def test_forced_steps(value, forced):
    config = DBCacheConfig(compute_steps=value)
    assert config.forced_steps == forced
    assert config.schedule is (value if value is SCHEDULE else None)


def test_forced_steps_by_the_name_of_a_schedule():
    config = DBCacheConfig(compute_steps="digits-wan/lemica-fast")
    assert config.schedule == CacheSchedule.resolve("digits-wan/lemica-fast")
    assert config.forced_steps == config.schedule.compute_steps


def test_configs_are_frozen_and_equal_by_their_knobs():
    steps = [1, 2]
    config = DBCacheConfig(compute_steps=steps)
    steps.append(3)
    assert config == DBCacheConfig(compute_steps=(1, 2)) != DBCacheConfig()
    assert hash(config) == hash(DBCacheConfig(compute_steps=(1, 2)))
    assert LeMiCaConfig(SCHEDULE) == LeMiCaConfig(SCHEDULE) != LeMiCaConfig(SCHEDULE, reuse="output")
    for frozen in (config, LeMiCaConfig(SCHEDULE)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.forecast = "taylor1"


def test_replacing_a_field_resolves_the_schedule_anew():
    config = dataclasses.replace(DBCacheConfig(compute_steps=SCHEDULE), compute_steps=[1])
    assert (config.schedule, config.forced_steps) == (None, (1,))
    assert dataclasses.replace(LeMiCaConfig("digits-wan/lemica-fast"), schedule=SCHEDULE).cache_schedule is SCHEDULE
