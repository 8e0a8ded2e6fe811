"""8. A schedule that is shorter or longer than the run.

cache-dit 1.5.3 takes a mask of another length than the run, and may reuse at every step past its end; MagCache of
diffusers 0.42.1 begins again at the front of its list. Both say nothing.
"""

from __future__ import annotations

import pytest

from dit_accel import DBCacheConfig, enable_acceleration
from dit_accel.errors import ScheduleMismatchError
from tests.serving.conftest import NUM_STEPS, SCHEDULE, SPARSE, run

from .conftest import METHODS

WITH_SCHEDULE = {
    "lemica": METHODS["lemica"],
    "planned": METHODS["planned"],
    "lemica+svg2": (SCHEDULE, SPARSE),
    "dbcache over a schedule": (DBCacheConfig(compute_steps=SCHEDULE.cache_schedule, max_warmup_steps=0),),
}


@pytest.mark.parametrize("configs", WITH_SCHEDULE.values(), ids=WITH_SCHEDULE)
@pytest.mark.parametrize("steps", [1, NUM_STEPS - 1, NUM_STEPS + 1, 2 * NUM_STEPS])
def test_the_run_is_refused_before_any_block_runs_and_the_next_one_is_right(pipe, configs, steps):
    calls = []
    with enable_acceleration(pipe, *configs):
        expected = run(pipe)
        hook = pipe.transformer.blocks[0].attn1.register_forward_hook(lambda *_: calls.append(1))
        with pytest.raises(ScheduleMismatchError, match=f"planned for {NUM_STEPS} steps, this run has {steps}"):
            run(pipe, num_inference_steps=steps)
        hook.remove()
        assert not calls
        assert run(pipe).equal(expected)


@pytest.mark.parametrize("method", ["dbcache", "svg2"])
@pytest.mark.parametrize("steps", [1, NUM_STEPS - 1, NUM_STEPS + 1])
def test_what_needs_no_schedule_runs_any_number_and_every_step_is_accounted_for(pipe, method, steps):
    with enable_acceleration(pipe, *METHODS[method]) as acceleration:
        run(pipe, num_inference_steps=NUM_STEPS)
        assert run(pipe, num_inference_steps=steps).isfinite().all()
        stats = acceleration.stats
    reused = stats.reused_steps.get("transformer", {}).get("cond", [])
    assert sorted(stats.computed_steps["transformer"]["cond"] + reused) == list(range(steps))
