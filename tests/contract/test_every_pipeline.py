"""The contract: what every supported pipeline class gets, tested on the smallest real pipeline of the class.

The tests of one class run in this order on one pipeline; each leaves it as it was, which the first one proves.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import enable_acceleration
from dit_accel._diffusers import observe_calls, output_tensors
from dit_accel.errors import AlreadyAcceleratedError
from dit_accel.step_tracker import StepTracker

from .conftest import NUM_STEPS, BlockCalls, Lab, Notes, attributes, expected_steps, held

ALL = tuple(range(NUM_STEPS))


class Stop(Exception):
    """Ends a run early."""


def test_steps_are_told_and_every_branch_runs_once_a_step(lab: Lab) -> None:
    for trajectory in {call.trajectory for call in lab.calls}:
        calls = [call for call in lab.calls if call.trajectory == trajectory]
        keys = [(call.denoiser, call.branch, call.step) for call in calls]
        assert len(set(keys)) == len(keys)
        steps = list(dict.fromkeys(call.step for call in calls))
        assert steps == list(range(steps[0], calls[0].num_steps))
    assert len(lab.calls) >= NUM_STEPS - 2


def test_never_skipping_and_disabled_are_bit_identical_and_nothing_is_left(lab: Lab) -> None:
    full, before = lab.full, attributes(lab)
    for enable in (lab.enable_all_compute, lambda: lab.enable_dbcache(residual_diff_threshold=0)):
        acceleration = enable()
        assert attributes(lab) != before
        assert lab.run().equal(full)
        stats = acceleration.stats
        assert not stats.reused_steps and not stats.nan_steps
        acceleration.disable()
        assert attributes(lab) == before
    assert lab.run().equal(full)


def test_reused_steps_are_the_schedules_and_blocks_do_not_run_then(lab: Lab, executors: Any) -> None:
    full, found = lab.full, lab.ranges()
    assert lab.calls, "before the counting: finding them takes a run"
    counters = {name: BlockCalls(r.blocks[r.first]) for name, r in found.items()}
    with lab.enable() as acceleration:
        reused = lab.run()
        lab.assert_follows(acceleration)
        stats = acceleration.stats
        assert held(executors) == [], "buffers are freed when the trajectory ends"
    for counter in counters.values():
        counter.remove()
    assert reused.isfinite().all()
    assert not reused.equal(full)
    assert stats.cache_bytes_peak > 0 and stats.denoise_seconds > 0
    if len({call.trajectory for call in lab.calls}) == 1:
        for name, branches in stats.computed_steps.items():
            runs = counters[name].count / sum(map(len, branches.values()))
            assert runs == int(runs) >= 1, "the same number of passes through a block at each computed step"


def test_the_probe_decides_once_a_step_for_all_branches(lab: Lab, executors: Any) -> None:
    with lab.enable_dbcache() as acceleration:
        reused = lab.run()
        stats = acceleration.stats
        assert held(executors) == []
    assert reused.isfinite().all() and not reused.equal(lab.full)
    # Warmup, then two reused for each computed one.
    last = [call for call in lab.calls if call.trajectory == lab.calls[-1].trajectory]
    if len({call.denoiser for call in last}) == 1:
        first = last[0].step
        compute = tuple(step for step in range(NUM_STEPS) if (step - first) % 3 == 0)
        assert (stats.computed_steps, stats.reused_steps) == expected_steps(lab.calls, compute)
    assert not stats.nan_steps
    assert all(0 < distance < 1e3 for pairs in stats.residual_diffs.values() for _, distance in pairs)


class SameInput:
    """Gives a denoiser the arguments of the branch's first call at every call, and stops the run after two steps."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.given, self.outputs = lab, {}, {}
        self.notes = Notes()

    def run(self) -> None:
        tracker = StepTracker(self.lab.pipe)
        undo = []
        for name, denoiser in self.lab.denoisers.items():
            ignored = self.lab.spec.denoisers[name].compute_when
            undo.append(observe_calls(name, denoiser, tracker, self.notes, ignored))
            undo.append(denoiser.register_forward_pre_hook(self.before, with_kwargs=True).remove)
            undo.append(denoiser.register_forward_hook(self.after).remove)
        try:
            self.lab.run()
        except Stop:
            pass
        finally:
            for remove in undo:
                remove()

    @property
    def key(self) -> tuple[int, str, str] | None:
        call = self.notes.calls[-1]
        return call and (call.trajectory, call.denoiser, call.branch)

    def before(self, _: Any, args: Any, kwargs: Any) -> Any:
        if self.key is None:
            return None
        if self.key not in self.given:  # a copy, because some pipelines write into their latents
            self.given[self.key] = copy.deepcopy((args, kwargs))
        return self.given[self.key]

    def after(self, _: Any, args: Any, output: Any) -> None:
        if self.key is None:
            return
        outputs = self.outputs.setdefault(self.key, [])
        outputs.append([tensor.clone() for tensor in output_tensors(output)])
        if len(outputs) == 3:
            raise Stop


METHODS = {
    "stack": lambda lab: lab.enable((0,)),
    "middle": lambda lab: lab.enable_dbcache(corrector_blocks=1),
    "output": lambda lab: enable_acceleration(lab.pipe, lab.schedule((0,), reuse="output")),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_input_twice_gives_the_same_output(lab: Lab, method: str) -> None:
    """The cached path against the computed one, with nothing else different."""
    with METHODS[method](lab) as acceleration:
        same = SameInput(lab)
        same.run()
        stats = acceleration.stats
    assert stats.reused_steps
    compared = 0
    for outputs in same.outputs.values():
        for again in outputs[1:]:
            for one, other in zip(outputs[0], again, strict=True):
                assert (one - other).norm() <= 1e-6 * one.norm()
                compared += 1
    assert compared >= sum(len(steps) for steps in stats.reused_steps[next(iter(stats.reused_steps))].values()) > 0


def test_it_makes_no_difference_what_ran_before_on_the_pipeline(lab: Lab) -> None:
    with lab.enable() as one, pytest.raises(AlreadyAcceleratedError, match=r"already accelerated.*disable"):
        lab.enable_dbcache()
    assert one.stats.num_steps == 0
    expected = lab.reused
    fresh = lab.another()
    with fresh.enable_dbcache(), lab.enable():
        fresh.run(seed=1)
        assert lab.run().equal(expected)
    with fresh.enable():
        assert fresh.run().equal(expected)


def test_a_run_after_one_that_failed_in_a_block_is_as_fresh(lab: Lab) -> None:
    with lab.enable_dbcache() as acceleration:
        expected = lab.run()
        stats = acceleration.stats
    block = next(iter(lab.ranges().values())).blocks[0]
    calls = iter(range(3))

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise Stop

    with lab.enable_dbcache() as acceleration:
        handle = BlockCalls(block).layer.register_forward_hook(fail)
        with pytest.raises(Stop):
            lab.run(seed=1)
        handle.remove()
        assert lab.run().equal(expected)
        assert acceleration.stats.computed_steps == stats.computed_steps


def test_other_kinds_of_call(lab: Lab) -> None:
    """A batch, no guidance, another size: right one after the other, on one enabled pipeline."""
    expected, others = lab.reused, {label: lab.other(label) for label in lab.tiny.variations}
    with lab.enable_all_compute():
        for label, changes in lab.tiny.variations.items():
            assert lab.run(**changes).equal(others[label][0]), label
    with lab.enable() as acceleration:
        assert lab.run().equal(expected)
        for label, changes in lab.tiny.variations.items():
            plain, calls = others[label]
            reused = lab.run(**changes)
            assert reused.isfinite().all() and reused.shape == plain.shape, label
            lab.assert_follows(acceleration, calls=calls)
            assert lab.run().equal(expected), label


@pytest.mark.parametrize("forecast", ["taylor1", "taylor2"])
def test_forecasts_run(lab: Lab, forecast: str) -> None:
    compute = (0, 1, 2, 4)
    outputs: dict[str, Tensor] = {}
    for kind in ("hold", forecast):
        with enable_acceleration(lab.pipe, lab.schedule(compute, forecast=kind)) as acceleration, torch.no_grad():
            outputs[kind] = lab.run()
            lab.assert_follows(acceleration, compute)
    assert outputs[forecast].isfinite().all()
    assert not outputs[forecast].equal(outputs["hold"])
