"""Step times: the clock alone, and measured on the tiny pipeline."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dit_accel import SVG2Config
from dit_accel.errors import ConfigError
from dit_accel.profiling.request import checked_job
from dit_accel.profiling.timing import StepTimer, measure_step_times
from dit_accel.step_tracker import DenoiserCall

from ..conftest import attributes, run_tiny, tiny_inputs, tiny_pipeline

FEW = SVG2Config(num_q_centroids=2, num_k_centroids=2, min_tokens=0, dense_layers=0.0)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def call(step: int, branch: str = "cond") -> DenoiserCall:
    return DenoiserCall("transformer", branch, step, 4, 0)


def test_a_step_lasts_until_the_next_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, timer = Clock(monkeypatch), StepTimer()
    assert timer.milliseconds() == {}
    for step, seconds in enumerate([0.5, 0.25, 2.0, 4.0]):
        for branch in ("cond", "uncond"):  # of all branches, from the first
            timer.begin(call(step, branch))
            clock.now += seconds / 2
            timer.end(None)
        timer.begin(None)  # a forward to leave alone
    assert timer.milliseconds() == {0: 500.0, 1: 250.0, 2: 2000.0}


def test_a_step_without_the_next_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, timer = Clock(monkeypatch), StepTimer()
    for step in (0, 1, 3):
        timer.begin(call(step))
        clock.now += 1
    assert timer.milliseconds() == {0: 1000.0}


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ({"step_times": True}, {"full", "reuse"}),
        ({"partial_blocks": (1, 1)}, {"full", "reuse", "partial"}),
        ({"sparse": FEW}, {"full", "reuse", "sparse"}),
        ({"partial_blocks": (1, 0), "sparse": FEW}, {"full", "reuse", "partial", "sparse"}),
    ],
)
def test_every_kind_asked_for(pipe: Any, arguments: dict[str, Any], kinds: set[str]) -> None:
    expected, before = run_tiny(pipe), attributes(pipe)
    job = checked_job(["a red seven", "a blue one"], num_inference_steps=6, **arguments, **tiny_inputs())
    times = measure_step_times(pipe, job)
    assert set(times) == kinds and all(0 < milliseconds < 60_000 for milliseconds in times.values())
    assert attributes(pipe) == before and run_tiny(pipe).equal(expected)


def test_the_median_of_each_kind(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that every block moves: what is measured is what ran, and not the first step."""
    clock = Clock(monkeypatch)

    def block(*_: Any) -> None:
        clock.now += 1.0

    def slow_start(*_: Any) -> None:
        clock.now += 0.125

    handles = [each.ffn.register_forward_hook(block) for each in pipe.transformer.blocks]
    handles.append(pipe.transformer.patch_embedding.register_forward_hook(slow_start))
    try:
        job = checked_job(["a red seven"], num_inference_steps=7, partial_blocks=(1, 0), sparse=FEW, **tiny_inputs())
        times = measure_step_times(pipe, job)
    finally:
        for handle in handles:
            handle.remove()
    # Four blocks, two branches.
    assert times == {"full": 8250.0, "reuse": 250.0, "partial": 2250.0, "sparse": 8250.0}


@pytest.mark.parametrize("num_steps", [3, 4, 5])
def test_few_steps(pipe: Any, num_steps: int) -> None:
    job = checked_job(["a red seven"], num_inference_steps=num_steps, partial_blocks=(1, 0), **tiny_inputs())
    assert set(measure_step_times(pipe, job)) == {"full", "reuse", "partial"}


def test_blocks_that_leave_nothing_to_cache(pipe: Any) -> None:
    before = attributes(pipe)
    job = checked_job(["a red seven"], num_inference_steps=6, partial_blocks=(2, 2), **tiny_inputs())
    with pytest.raises(ConfigError, match="leave nothing to cache"):
        measure_step_times(pipe, job)
    assert attributes(pipe) == before
