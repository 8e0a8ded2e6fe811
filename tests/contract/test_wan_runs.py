"""How runs end and what they keep meanwhile, on Wan only: nothing in it is of one family."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from torch import Tensor

from dit_accel import enable_acceleration
from dit_accel.errors import ScheduleMismatchError

from .conftest import NUM_STEPS, REUSE, BlockCalls, Lab, attributes, held
from .settings import every_method

SIZES = ["same size", "another size"]


class Stop(Exception):
    """Raised in the middle of a run."""


def stop(pipe: Any) -> None:
    raise Stop


def interrupt(pipe: Any) -> None:
    pipe._interrupt = True


def callback_that(action: Any, at: int) -> Any:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            action(pipe)
        return tensors

    return callback


# However a run ends, the next one is as fresh


@every_method
@pytest.mark.parametrize("at", [0, 1, 3, NUM_STEPS - 1])
@pytest.mark.parametrize("later", SIZES)
def test_a_run_after_an_aborted_one_is_as_fresh(wan, method, at, later):
    changes = wan.larger if later == "another size" else {}
    with method.enable(wan):
        expected = wan.run(**changes)
    with method.enable(wan) as acceleration:
        with pytest.raises(Stop):
            wan.run(seed=1, callback_on_step_end=callback_that(stop, at))
        assert wan.run(**changes).equal(expected)
        wan.assert_follows(acceleration, method.compute)


@every_method
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("later", SIZES)
def test_a_run_after_an_interrupted_one_is_as_fresh(wan, method, at, later):
    changes = wan.larger if later == "another size" else {}
    with method.enable(wan) as acceleration:
        expected = wan.run(**changes)
        wan.run(seed=1, callback_on_step_end=callback_that(interrupt, at))
        stats = acceleration.stats
        for branch, steps in stats.computed_steps["transformer"].items():
            reused = stats.reused_steps.get("transformer", {}).get(branch, [])
            assert sorted(steps + reused) == list(range(at + 1))
        assert wan.run(**changes).equal(expected)
        wan.assert_follows(acceleration, method.compute)


@every_method
def test_disabling_after_an_error_in_a_block_frees_and_restores(wan, executors, method):
    acceleration = method.enable(wan)
    calls = iter(range(3))

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise Stop

    handle = BlockCalls(wan.blocks[-1]).layer.register_forward_hook(fail)
    with pytest.raises(Stop):
        wan.run(seed=1)
    handle.remove()
    assert held(executors)
    acceleration.disable()
    assert held(executors) == []
    assert wan.run().equal(wan.full)


@every_method
@pytest.mark.parametrize("inside", [0, 3])
def test_disabling_in_the_middle_of_a_run_frees_and_restores(wan, executors, method, inside):
    expected = wan.run()  # diffusers leaves a registry of its own at the first run
    before = attributes(wan)
    acceleration = method.enable(wan)
    wan.run(callback_on_step_end=callback_that(lambda _: acceleration.disable(), inside))
    assert held(executors) == []
    assert attributes(wan) == before
    assert wan.run().equal(expected)


@pytest.mark.parametrize("steps", [NUM_STEPS - 1, NUM_STEPS + 1])
@pytest.mark.parametrize("kind", ["schedule", "probe"])
def test_a_wrong_number_of_steps_is_refused_before_any_block_runs(wan, kind, steps):
    counters = [BlockCalls(block) for block in wan.blocks]
    schedule = wan.schedule()
    options = {"compute_steps": schedule.cache_schedule, "max_warmup_steps": 0, "max_continuous_cached_steps": None}
    with enable_acceleration(wan.pipe, schedule) if kind == "schedule" else wan.enable_dbcache(**options) as handle:
        expected = wan.run()
        for counter in counters:
            counter.count = 0
        for _ in range(2):
            with pytest.raises(ScheduleMismatchError, match=f"planned for {NUM_STEPS} steps, this run has {steps}"):
                wan.run(num_inference_steps=steps)
        assert [counter.count for counter in counters] == [0] * len(counters)
        assert wan.run().equal(expected)
        wan.assert_follows(handle)


# What is kept, and how long


def test_buffers_are_there_only_before_steps_that_reuse_them(wan, executors):
    seen: dict[int, list[weakref.ref[Tensor]]] = {}

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen[step] = [weakref.ref(tensor) for tensor in held(executors)]
        return tensors

    with wan.enable():
        wan.run(callback_on_step_end=look)
        # So after the last step, before the VAE, there is nothing.
        assert [bool(seen[step]) for step in range(NUM_STEPS)] == [step + 1 in REUSE for step in range(NUM_STEPS)]
        assert held(executors) == []
        assert all(reference() is None for references in seen.values() for reference in references)


@pytest.mark.parametrize(
    ("options", "last"),
    [({}, NUM_STEPS - 2), ({"always_compute_last": True}, NUM_STEPS - 3), ({"compute_steps": [4, 5]}, NUM_STEPS - 4)],
)
def test_the_probe_keeps_until_the_last_step_that_it_may_still_reuse(wan, executors, options, last):
    seen = []

    def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(bool(held(executors)))
        return tensors

    with wan.enable_dbcache(**options):
        wan.run(callback_on_step_end=look)
    assert seen == [step <= last for step in range(NUM_STEPS)]


def entry_bytes(lab: Lab, **changes: Any) -> int:
    """Bytes of what enters the blocks in one call."""
    sizes: list[int] = []
    (found,) = lab.ranges().values()
    handle = found.blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(sum(t.nbytes for t in found.inputs(0, args, kwargs))), with_kwargs=True
    )
    lab.run(**changes)
    handle.remove()
    return sizes[0]


@pytest.mark.parametrize(
    ("options", "entries"),
    [({}, 1), ({"forecast": "taylor1"}, 2), ({"forecast": "taylor2"}, 3), ({"reuse": "output"}, None)],
)
def test_the_bytes_at_the_peak_are_those_of_an_entry_for_every_branch_and_order(wan, options, entries):
    with enable_acceleration(wan.pipe, wan.schedule((0, 1, 2, 4), **options)) as acceleration:
        latents = wan.run()
        peak = acceleration.stats.cache_bytes_peak
    assert peak == 2 * (latents.nbytes if entries is None else entries * entry_bytes(wan)) > 0


def test_the_probe_takes_as_many_bytes_again(wan):
    with wan.enable_dbcache() as acceleration:
        wan.run()
        assert acceleration.stats.cache_bytes_peak == 2 * 2 * entry_bytes(wan) > 0


def test_computing_every_step_keeps_nothing(wan):
    with wan.enable_all_compute() as acceleration:
        wan.run()
        assert acceleration.stats.cache_bytes_peak == 0
