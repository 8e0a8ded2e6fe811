"""The twelve failures that were seen in other caches for diffusers: cache-dit 1.5.3 and those of diffusers 0.42.1.

One file a failure, which says what goes wrong where and when, and shows to the bit that it does not here. The folders
of the parts have more on each.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from torch import Tensor

from dit_accel import CacheSchedule, LeMiCaConfig, enable_acceleration
from dit_accel.actions import PartialSteps, SparseSteps
from tests.contract.conftest import folder, fresh_compiler
from tests.serving.conftest import NUM_STEPS, PROBE, SCHEDULE, SPARSE, run, tiny

__all__ = ["METHODS", "alone", "each_kind", "enable", "every_method", "folder", "fresh_compiler", "pipe"]

KNOBS = {"top_p": 0.5, "num_q_centroids": 2, "num_k_centroids": 2, "min_tokens": 0, "dense_layers": 0}
JOINT = CacheSchedule(NUM_STEPS, (0, 3), sparse=SparseSteps((3,), KNOBS), partial=PartialSteps((2, 5), 1, 1))
METHODS: dict[str, tuple[Any, ...]] = {
    "dbcache": (PROBE,),
    "lemica": (SCHEDULE,),
    "svg2": (SPARSE,),
    "planned": (LeMiCaConfig(JOINT),),
}
every_method = pytest.mark.parametrize("method", METHODS)
# One of each kind, for what takes many runs; a planned schedule is all of LeMiCa, with partial and sparse steps.
each_kind = pytest.mark.parametrize("method", ["dbcache", "svg2", "planned"])


def enable(pipe: Any, method: str) -> Any:
    return enable_acceleration(pipe, *METHODS[method])


@functools.cache
def alone(method: str | None, *changes: tuple[str, Any]) -> Tensor:
    """What a pipeline makes that has done nothing else, accelerated by the method if there is one."""
    pipe = tiny()
    if method is not None:
        enable(pipe, method)
    return run(pipe, **dict(changes))


@pytest.fixture
def pipe() -> Any:
    return tiny()
