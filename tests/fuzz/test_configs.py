"""All config classes: every field, with values of any type."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.actions import SparseSteps
from dit_accel.configs import DBCacheConfig, LeMiCaConfig, SVG2Config
from dit_accel.documents import quoted
from dit_accel.errors import ConfigError, DitAccelError, HubError, ScheduleError
from dit_accel.schedule import CacheSchedule
from tests.conftest import examples

from .conftest import outcome
from .values import EXPRESSIONS, anything, make, make_all, of, same

INTEGERS, SHARES = of(st.integers(-1, 9)), of(st.floats(-0.1, 1.1))
FIELDS: dict[type, dict[str, st.SearchStrategy[str]]] = {
    DBCacheConfig: {
        "residual_diff_threshold": SHARES,
        "always_compute_last": of(st.booleans()),
        "forecast": of(st.sampled_from(["hold", "taylor1", "taylor2", "Hold"])),
        "compute_steps": of(st.lists(st.integers(0, 9), max_size=3) | st.just("digits-wan/lemica-fast")),
    },
    LeMiCaConfig: {
        "reuse": of(st.sampled_from(["residual", "output"])),
        "forecast": of(st.sampled_from(["schedule", "hold", "taylor1"])),
    },
    SVG2Config: {
        **{name: SHARES for name in ("top_p", "min_kept_ratio", "dense_layers", "max_drift", "max_error")},
        "dense_steps": of(st.floats(0, 1) | st.lists(st.integers(0, 9), max_size=3).map(tuple)),
        "compensate": of(st.booleans()),
        "backend": of(st.sampled_from(["auto", "torch", "triton", "cuda"])),
    },
}
SCHEDULE = CacheSchedule(10, (0, 4), forecasts={6: (0.5, 0.5)})
NAMES = (
    "digits-wan/lemica-fast",
    "digits-wan/lemica-fst",
    "no/such.json",
    "a.json",
    "../x",
    "x:y",
    "\ud800",
    "\0.json",
)


def given_fields(kind: type) -> st.SearchStrategy[dict[str, str]]:
    """One to three fields of a config, with values that are nearly always wrong for one of them."""
    own = FIELDS[kind]
    names = [field.name for field in dataclasses.fields(kind) if field.init and field.name != "schedule"]
    strategies = {name: own.get(name, INTEGERS) for name in names}
    chosen = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda found: st.fixed_dictionaries({name: strategies[name] for name in found}))


def check(kind: type, values: dict[str, Any]) -> None:
    before = same(values)
    kinds: tuple[type[DitAccelError], ...] = (ConfigError, ScheduleError, HubError)
    config = outcome(lambda: kind(**values), kind=kinds)
    assert same(values) == before
    if config is not None:
        again = kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(kind) if field.init})
        assert again == config == dataclasses.replace(config)
        return
    with pytest.raises(kinds) as caught:
        kind(**values)
    message = str(caught.value)
    shown = [
        (name, item) for name, value in values.items() for item in (value, *(value if type(value) is tuple else ()))
    ]
    is_quoted = any(name in message and quoted(item) in message for name, item in shown)
    assert is_quoted or not isinstance(caught.value, ConfigError), f"{message} does not quote any of {values.keys()}"


@given(given_fields(DBCacheConfig))
@examples(450)
def test_dbcache(fields: dict[str, str]) -> None:
    check(DBCacheConfig, make_all(fields))


@given(given_fields(SVG2Config))
@examples(600)
def test_svg2(fields: dict[str, str]) -> None:
    check(SVG2Config, make_all(fields))


@given(st.none() | st.sampled_from(NAMES).map(repr) | anything(), given_fields(LeMiCaConfig))
@examples(200)
def test_lemica(schedule: str | None, fields: dict[str, str]) -> None:
    check(LeMiCaConfig, {"schedule": SCHEDULE if schedule is None else make(schedule), **make_all(fields)})


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_every_value_in_every_field(kind: type) -> None:
    """All of them, one at a time: some hundreds for each class."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    valid = {"schedule": SCHEDULE} if kind is LeMiCaConfig else {}
    for field, expression in itertools.product(fields, EXPRESSIONS):
        check(kind, {**valid, field.name: make(expression)})


@given(
    st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(SVG2Config)]) | st.text(), anything())
)
@examples(200)
def test_any_config_of_sparse_steps(config: dict[str, str]) -> None:
    schedule = CacheSchedule(10, (0, 4), {"name": "mine"}, sparse=SparseSteps((0, 4), make_all(config)))
    outcome(lambda: LeMiCaConfig(schedule), kind=ConfigError)
