"""`check_contract` finds what it is for: a pipeline that is not restored, differs, or reuses what it must not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dit_accel import CacheSchedule, LeMiCaConfig, self_test
from dit_accel.errors import ConfigError
from dit_accel.registry import all_specs
from dit_accel.self_test import check_contract, tiny_of, tiny_pipelines

from .conftest import tiny_pipeline

REPEATS, NEVER, ALL, REUSES, SPARSE, RESTORED = self_test._CHECKS


def problems(pipe: Any, **changes: Any) -> dict[str, str]:
    """Check -> why it does not hold, for those."""
    checks = list(check_contract(pipe, tiny_of(pipe), **changes))
    assert [check.name for check in checks] == list(self_test._CHECKS) and checks[0].pipeline == "WanPipeline"
    return {check.name: check.problem for check in checks if check.problem is not None}


def test_a_good_pipeline_passes() -> None:
    assert problems(tiny_pipeline()) == {}


def test_what_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline()
    real = self_test.enable_acceleration

    def leaky(pipe: Any, *configs: Any) -> Any:
        pipe.transformer.blocks[0].left = True
        return real(pipe, *configs)

    monkeypatch.setattr(self_test, "enable_acceleration", leaky)
    assert problems(pipe) == {RESTORED: "something is left on transformer.blocks.0"}


def test_another_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline()
    real = self_test.enable_acceleration

    def inexact(pipe: Any, *configs: Any) -> Any:
        with torch.no_grad():
            pipe.transformer.proj_out.bias += 1e-3
        return real(pipe, *configs)

    monkeypatch.setattr(self_test, "enable_acceleration", inexact)
    found = problems(pipe)
    assert set(found) == {NEVER, ALL, REUSES, RESTORED}
    assert found[NEVER].startswith("the output differs from the full run, by up to")
    assert "the number of steps is not known" in found[ALL]


def test_a_schedule_that_is_not_followed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    all_steps = LeMiCaConfig(CacheSchedule(6, tuple(range(6))))
    monkeypatch.setattr(self_test, "_schedule", lambda *_: all_steps)
    found = problems(tiny_pipeline())
    assert set(found) == {REUSES} and "it reused the steps []" in found[REUSES]


def test_an_error_is_a_problem_and_not_the_end() -> None:
    found = problems(tiny_pipeline(), height=17)
    assert REPEATS in found and found[REPEATS].startswith("ValueError: ")


def test_names_are_families_or_classes() -> None:
    assert list(tiny_pipelines("wan"))[:2] == ["WanPipeline", "WanImageToVideoPipeline"]
    assert list(tiny_pipelines("WanVACEPipeline")) == ["WanVACEPipeline"]
    assert all(tiny_pipelines(spec.family) for spec in all_specs())
    with pytest.raises(ConfigError, match=r"There is no family or pipeline class 'wann'.*Did you mean 'wan'"):
        tiny_pipelines("wann")
