"""3. No guidance, more passes than two, and guidance that goes off and on within a run.

cache-dit 1.5.3 takes every second call of the transformer for the unconditional one, whatever the pipeline does.
Without guidance it counts half as many steps as there are, and compares residuals that are two steps apart. With three
passes (skip-layer guidance, LTX-2) it mixes the residuals of different branches.
"""

from __future__ import annotations

import itertools

import pytest

from tests.contract.test_guiders import SKIPPED_BRANCH, motif
from tests.serving.conftest import NUM_STEPS, run

from .conftest import alone, enable, every_method

CACHES = ("dbcache", "lemica", "planned")
every_cache = pytest.mark.parametrize("method", CACHES)


def steps_of(stats, branch):
    """What was computed, reused or in part computed, in order."""
    kinds = (stats.computed_steps, stats.reused_steps, stats.partial_steps)
    return [steps["transformer"].get(branch, []) if "transformer" in steps else [] for steps in kinds]


@every_method
def test_without_guidance_every_call_is_a_step(pipe, method):
    with enable(pipe, method) as guided:
        run(pipe)
        expected = steps_of(guided.stats, "cond")
        unguided = run(pipe, guidance_scale=1.0)
        stats = guided.stats
        assert list(stats.computed_steps["transformer"]) == ["cond"]
        assert steps_of(stats, "cond") == expected
        assert sorted(itertools.chain(*expected)) == list(range(NUM_STEPS))
    assert unguided.equal(alone(method, ("guidance_scale", 1.0)))


def switching(off, on=None):
    """Guidance is off after one step, and on again after another one."""

    def callback(pipe, step, timestep, tensors):
        if step in (off, on):
            pipe._guidance_scale = 1.0 if step == off else 4.0
        return {}

    return callback


@every_method
def test_guidance_that_goes_off_leaves_the_steps_before_as_they_were(pipe, method):
    plain = run(pipe, callback_on_step_end=switching(2))
    with enable(pipe, method) as acceleration:
        first = run(pipe, callback_on_step_end=switching(2))
        stats = acceleration.stats
        assert run(pipe, callback_on_step_end=switching(2)).equal(first)
        assert run(pipe).equal(alone(method))
    ran = {branch: sorted(itertools.chain(*steps_of(stats, branch))) for branch in ("cond", "uncond")}
    assert ran == {"cond": [0, 1, 2, 3, 4, 5], "uncond": [0, 1, 2]}
    assert not first.equal(plain)


@every_cache
def test_a_branch_that_comes_back_reuses_nothing_from_before_it_was_away(pipe, method):
    """It missed the compute step 3, so at step 4 it has nothing of that step to reuse, and computes."""
    with enable(pipe, method) as acceleration:
        run(pipe, callback_on_step_end=switching(2, on=3))
        computed, reused, partial = steps_of(acceleration.stats, "uncond")
    assert 3 not in computed + reused + partial
    assert 4 in computed
    assert sorted(computed + reused + partial) == [0, 1, 2, 4, 5]


def test_a_third_pass_of_a_guider_is_a_branch_of_its_own():
    """Skip-layer guidance runs the denoiser once more in steps 2 to 4, without one of its blocks."""
    lab = motif(skipped=[1])
    full = lab.full
    with lab.enable((0, 5)) as acceleration:
        first = lab.run()
        stats = acceleration.stats
        assert lab.run().equal(first)
    computed = stats.computed_steps["transformer"]
    assert computed["pred_cond"] == computed["pred_uncond"] == [0, 5]
    assert computed[SKIPPED_BRANCH] != [0, 5] and len(computed[SKIPPED_BRANCH]) == 1
    with lab.enable_all_compute():
        assert lab.run().equal(full)
    assert lab.run().equal(full)
