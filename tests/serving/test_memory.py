"""What is held after a call, after an aborted one, and when a pipeline is let go of."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

import pytest
import torch

from dit_accel import enable_acceleration

from .conftest import METHODS, SCHEDULE, SIZES, Meeting, Worker, at_step, every_method, run, sharing, tiny


class Stop(Exception):
    """An error of the user's own."""


def stop() -> None:
    raise Stop


def abort(pipe: Any, **changes: Any) -> None:
    with pytest.raises(Stop):
        run(pipe, callback_on_step_end=at_step(1, stop), **changes)


def live_bytes() -> int:
    """Storage of all tensors alive."""
    gc.collect()
    real = (torch.Tensor, torch.nn.Parameter)  # the compiler leaves fake ones
    found = [each for each in gc.get_objects() if type(each) in real]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def held_bytes(acceleration: Any, pipe: Any) -> int:
    found: int = acceleration._installation.run_of(pipe).record.cache_bytes
    return found


@every_method
def test_after_each_call_as_much_is_alive_as_before(pipe, configs):
    with enable_acceleration(pipe, *configs) as acceleration:
        run(pipe, **SIZES[3])
        before = live_bytes()
        for size in SIZES:
            run(pipe, **size)
            assert acceleration.stats.cache_bytes_peak > 0
            assert held_bytes(acceleration, pipe) == 0
        run(pipe, **SIZES[3])
        assert live_bytes() == before


@every_method
def test_what_an_aborted_call_holds_is_freed_by_the_next_one_or_on_demand(pipe, configs):
    with enable_acceleration(pipe, *configs) as acceleration:
        run(pipe)
        before = live_bytes()
        abort(pipe)
        held = held_bytes(acceleration, pipe)
        assert live_bytes() - before >= held > 0
        assert held == acceleration.stats.cache_bytes_peak
        acceleration.free()
        assert held_bytes(acceleration, pipe) == 0
        run(pipe)
        assert live_bytes() == before


@every_method
def test_a_call_of_another_pipeline_frees_what_an_aborted_one_holds(pipe, configs):
    other = sharing(pipe)
    with enable_acceleration(pipe, *configs) as acceleration:
        abort(pipe)
        assert held_bytes(acceleration, pipe) > 0
        run(other)
        assert held_bytes(acceleration, pipe) == 0


def test_what_a_running_call_holds_stays(pipe):
    other, meeting = sharing(pipe), Meeting()
    with enable_acceleration(pipe, SCHEDULE) as acceleration:
        expected = run(pipe)
        worker = Worker(lambda: run(other, callback_on_step_end=at_step(1, meeting.stop)))
        meeting.wait()
        held = held_bytes(acceleration, other)
        acceleration.free()
        run(pipe, callback_on_step_end=at_step(1, acceleration.free))
        assert held_bytes(acceleration, other) == held > 0
        meeting.release()
        assert worker.result().equal(expected)


def test_a_pipeline_that_is_let_go_of_takes_what_it_holds_with_it(pipe):
    with enable_acceleration(pipe, *METHODS["probe"]) as acceleration:
        run(pipe)
        before = live_bytes()
        other = sharing(pipe)
        abort(other)
        runs = acceleration._installation._runs
        assert len(runs) == 2
        del other
        assert live_bytes() == before
        assert len(runs) == 1


@every_method
def test_an_accelerated_pipeline_is_freed_when_nothing_refers_to_it(configs):
    gc.collect()
    before = live_bytes()
    pipe = tiny()
    enable_acceleration(pipe, *configs)
    run(pipe)
    Worker(functools.partial(run, pipe)).result()
    abort(pipe)
    denoiser = weakref.ref(pipe.transformer)
    weight = weakref.ref(pipe.transformer.blocks[0].attn1.to_q.weight)
    del pipe
    assert live_bytes() <= before
    assert denoiser() is None and weight() is None
