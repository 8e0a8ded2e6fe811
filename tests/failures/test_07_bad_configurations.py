"""7. Bad configurations.

cache-dit 1.5.3 accepts more probe blocks than there are, negative ones, and a threshold that is text, when it is
enabled; the first call fails, in an assertion. A threshold that is NaN and a misspelled policy are accepted for good.
"""

from __future__ import annotations

import math

import pytest

from dit_accel import CacheSchedule, DBCacheConfig, DitAccelError, LeMiCaConfig, SVG2Config, enable_acceleration
from dit_accel.actions import PartialSteps
from tests.conftest import attributes
from tests.serving.conftest import NUM_STEPS, SCHEDULE, SPARSE, run

from .conftest import alone

FOREIGN = {"model": {"pipeline_class": "CogVideoXPipeline"}}
OF_THE_PIPELINE = {
    "more blocks than there are": lambda: [DBCacheConfig(probe_blocks=3, corrector_blocks=1)],
    "more blocks than there are, after another method": lambda: [SPARSE, DBCacheConfig(probe_blocks=40)],
    "a schedule of another family": lambda: [LeMiCaConfig(CacheSchedule(NUM_STEPS, (0, 3), FOREIGN))],
    "a schedule that is not there": lambda: ["lemica-fast"],
    "a misspelled preset": lambda: ["dbcache-fst"],
    "a misspelled half of a joint preset": lambda: ["dbcache-fast+svg"],
    "a backend that is not there": lambda: [SVG2Config(backend="flashinfer")],
    "two that decide": lambda: [DBCacheConfig(), SCHEDULE],
    "two of one kind": lambda: ["svg2", SPARSE],
    "nothing": lambda: [],
}
OF_THEMSELVES = {
    "no probe block": lambda: DBCacheConfig(probe_blocks=0),
    "negative corrector blocks": lambda: DBCacheConfig(corrector_blocks=-1),
    "a threshold that is text": lambda: DBCacheConfig(residual_diff_threshold="0.1"),
    "a threshold that is NaN": lambda: DBCacheConfig(residual_diff_threshold=math.nan),
    "a misspelled forecast": lambda: DBCacheConfig(forecast="tailor1"),
    "a mask with a two": lambda: DBCacheConfig(compute_steps=[0, True, 2.5]),
    "a schedule that cannot begin": lambda: CacheSchedule(NUM_STEPS, (1, 3)),
    "steps beyond the end": lambda: CacheSchedule(NUM_STEPS, (0, NUM_STEPS)),
    "a step that is two things": lambda: CacheSchedule(NUM_STEPS, (0, 3), partial=PartialSteps((3,), 1, 1)),
    "a share above one": lambda: SVG2Config(top_p=1.5),
    "a misspelled backend": lambda: SVG2Config(backend="tritn"),
}


@pytest.mark.parametrize("given", OF_THEMSELVES.values(), ids=OF_THEMSELVES)
def test_it_cannot_even_be_made(given):
    with pytest.raises(DitAccelError):
        given()


@pytest.mark.parametrize("given", OF_THE_PIPELINE.values(), ids=OF_THE_PIPELINE)
def test_it_is_refused_when_enabling_and_nothing_is_left(pipe, given):
    before = attributes(pipe)
    with pytest.raises(DitAccelError):
        enable_acceleration(pipe, *given())
    assert attributes(pipe) == before
    with enable_acceleration(pipe, SCHEDULE):
        assert run(pipe).equal(alone("lemica"))


@pytest.mark.parametrize("field", ["treshold", "residual_dif_threshold", "steps_computation_mask"])
def test_a_misspelled_field_is_refused(pipe, field):
    """In a YAML file cache-dit drops it without a word."""
    with pytest.raises(DitAccelError, match=f"No config has {field}"):
        enable_acceleration(pipe, "dbcache-fast", **{field: 1})
