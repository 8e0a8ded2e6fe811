"""What every family gets for free: a run leaves no trace in the next one, however it ends."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from torch import Tensor

from dit_accel.cache import install
from dit_accel.cache.executor import BlockRangeExecutor

from .conftest import NUM_STEPS, REUSE, BlockCalls


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[BlockRangeExecutor]:
    """The executors that `enable_acceleration` makes during the test."""
    made: list[BlockRangeExecutor] = []

    class Noted(BlockRangeExecutor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(install, "BlockRangeExecutor", Noted)
    return made


def held(executors: list[BlockRangeExecutor]) -> list[Tensor]:
    """Every tensor that the executors hold."""
    states = [state for e in executors for state in (*e._states.values(), e._state)]
    return [tensor for state in states for kept in (state.entry, state.residual) for tensor in kept or ()]


def callback_that(action: Any, at: int) -> Any:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            action(pipe)
        return tensors

    return callback


def stop(pipe: Any) -> None:
    raise Stop


def interrupt(pipe: Any) -> None:
    pipe._interrupt = True


@pytest.mark.parametrize("at", [0, 1, 3, NUM_STEPS - 1])
@pytest.mark.parametrize("later", ["same size", "another size"])
def test_a_run_after_an_aborted_one_is_as_fresh(lab, at, later):
    changes = lab.larger if later == "another size" else {}
    with lab.enable():
        expected = lab.run(**changes)
    with lab.enable() as acceleration:
        with pytest.raises(Stop):
            lab.run(seed=1, callback_on_step_end=callback_that(stop, at))
        assert lab.run(**changes).equal(expected)
        lab.assert_follows(acceleration)


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("later", ["same size", "another size"])
def test_a_run_after_an_interrupted_one_is_as_fresh(lab, at, later):
    changes = lab.larger if later == "another size" else {}
    with lab.enable() as acceleration:
        expected = lab.run(**changes)
        lab.run(seed=1, callback_on_step_end=callback_that(interrupt, at))
        stats = acceleration.stats
        assert all(
            sorted(steps + stats.reused_steps.get(name, {}).get(branch, [])) == list(range(at + 1))
            for name, branches in stats.computed_steps.items()
            for branch, steps in branches.items()
        )
        assert lab.run(**changes).equal(expected)
        lab.assert_follows(acceleration)


@pytest.mark.parametrize("after", ["rerun", "disable"])
def test_an_error_in_the_middle_of_the_blocks_leaves_no_trace(lab, executors, after):
    plain = lab.run()
    layer = BlockCalls(lab.blocks[-1]).layer
    acceleration = lab.enable()
    expected = lab.run()
    calls = iter(range(3))

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise Stop

    handle = layer.register_forward_hook(fail)
    with pytest.raises(Stop):
        lab.run(seed=1)
    handle.remove()
    if after == "rerun":
        assert lab.run().equal(expected)
        lab.assert_follows(acceleration)
    else:
        assert held(executors)
        acceleration.disable()
        assert held(executors) == []
        assert lab.run().equal(plain)


def test_buffers_are_freed_when_the_trajectory_ends(lab, executors):
    seen: dict[int, list[weakref.ref[Tensor]]] = {}

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen[step] = [weakref.ref(tensor) for tensor in held(executors)]
        return tensors

    with lab.enable():
        lab.run(callback_on_step_end=look)
        assert [bool(seen[step]) for step in range(NUM_STEPS)] == [
            step + 1 in REUSE for step in range(NUM_STEPS)
        ]  # so after the last step, before the VAE, there is nothing
        assert held(executors) == []
        assert all(reference() is None for references in seen.values() for reference in references)
