"""Requests that differ from the one before, and requests that are aborted: the next is as a fresh pipeline's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import enable_acceleration
from dit_accel.errors import ScheduleMismatchError

from .conftest import METHODS, NUM_STEPS, SCHEDULE, SIZES, at_step, every_method, run, tiny

CHANGES: dict[str, dict[str, Any]] = {
    "as before": {},
    "smaller": SIZES[0],
    "larger": SIZES[3],
    "batch of two": {"prompt": ["a red seven", "a blue one"]},
    "without guidance": {"guidance_scale": 1.0},
    "longer prompt": {"max_sequence_length": 32},
    "other prompt": {"prompt": "a blue one"},
}


class Stop(Exception):
    """An error of the user's own."""


class Exit(BaseException):
    """Nothing that ``except Exception`` catches, as KeyboardInterrupt."""


@pytest.fixture(scope="module", params=METHODS.values(), ids=METHODS)
def served(request: pytest.FixtureRequest) -> Any:
    """A pipeline that stays accelerated from test to test; and what fresh ones make of the changes."""
    fresh: dict[str, Tensor] = {}
    for name, changes in CHANGES.items():
        pipe = tiny()
        enable_acceleration(pipe, *request.param)
        fresh[name] = run(pipe, **changes)
    pipe = tiny()
    return pipe, enable_acceleration(pipe, *request.param), fresh


@pytest.mark.parametrize("name", [*CHANGES, *reversed(CHANGES)])
def test_every_request_is_as_of_a_fresh_pipeline_whatever_came_before(served, name):
    pipe, acceleration, fresh = served
    assert run(pipe, **CHANGES[name]).equal(fresh[name])
    assert acceleration.stats.reused_steps["transformer"]["cond"] == [1, 2, 4, 5]


def test_another_number_of_steps_is_as_of_a_fresh_pipeline(pipe):
    fresh = tiny()
    with enable_acceleration(fresh, *METHODS["probe"]):
        expected = run(fresh, num_inference_steps=9)
    with enable_acceleration(pipe, *METHODS["probe"]):
        for steps in (NUM_STEPS, 9, 3, 9):
            found = run(pipe, num_inference_steps=steps)
        assert found.equal(expected)


@pytest.mark.parametrize("at", [0, 2, NUM_STEPS - 1])
@pytest.mark.parametrize("how", ["interrupt", Stop, Exit, "denoiser"])
def test_a_request_after_an_aborted_one_is_as_of_a_fresh_pipeline(served, how, at):
    pipe, _, fresh = served
    abort(pipe, how, at)
    assert run(pipe).equal(fresh["as before"])
    abort(pipe, how, at)
    assert run(pipe, **SIZES[0]).equal(fresh["smaller"])


def abort(pipe: Any, how: Any, at: int) -> None:
    """A run that ends at step ``at``: after it, or within its second forward."""
    if how == "interrupt":
        run(pipe, 1, callback_on_step_end=at_step(at, lambda: setattr(pipe, "_interrupt", True)))
        return
    calls = iter(range(2 * at + 1))

    def fail(*_: Any) -> None:
        if next(calls, None) is None:
            raise Stop

    def stop() -> None:
        raise how

    if how != "denoiser":
        with pytest.raises(how):
            run(pipe, 1, callback_on_step_end=at_step(at, stop))
        return
    hook = pipe.transformer.rope.register_forward_hook(fail)  # also where the blocks are reused
    with pytest.raises(Stop):
        run(pipe, 1)
    hook.remove()


def test_a_refused_request_leaves_the_next_one_as_it_would_be(pipe):
    with enable_acceleration(pipe, SCHEDULE):
        expected = run(pipe)
        for _ in range(2):
            with pytest.raises(ScheduleMismatchError, match="planned for 6 steps, this run has 5"):
                run(pipe, num_inference_steps=5)
            assert run(pipe).equal(expected)


@every_method
def test_a_request_in_another_precision_is_as_of_a_fresh_pipeline(pipe, configs):
    fresh = tiny().to(torch.bfloat16)
    with enable_acceleration(fresh, *configs):
        expected = run(fresh)
    with enable_acceleration(pipe, *configs):
        before = run(pipe)
        assert run(pipe.to(torch.bfloat16)).equal(expected)
    assert not expected.equal(before)
