"""Guiders that skip layers put hooks on blocks and take them off again inside every step."""

from __future__ import annotations

import pytest
from diffusers.guiders import SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig

from dit_accel import DBCacheConfig, enable_acceleration

from .conftest import CLASSES, Lab, attributes, make_lab

NUM_STEPS = 8
SKIPPED_BRANCH = "pred_cond_skip"


def motif(*, skipped: list[int]) -> Lab:
    """A Motif pipeline of two dual-stream blocks, whose guider skips some of them in a third call of steps 2 … 4."""
    lab = make_lab(*next(pair for pair in CLASSES if pair[1].endswith(".MotifVideoPipeline")))
    layers = LayerSkipConfig(indices=skipped, fqn="transformer_blocks")
    lab.pipe.guider = SkipLayerGuidance(
        guidance_scale=4.0,
        skip_layer_config=layers,
        skip_layer_guidance_start=0.2,
        skip_layer_guidance_stop=0.7,
    )
    lab.num_steps = NUM_STEPS
    return lab


@pytest.mark.parametrize("skipped", [[0], [1], [0, 1]], ids=str)
def test_skip_layer_guidance_keeps_working_and_its_branch_is_cached_by_itself(skipped: list[int]) -> None:
    lab = motif(skipped=skipped)
    full, before = lab.full, attributes(lab)
    assert SKIPPED_BRANCH in {call.branch for call in lab.calls}
    never = DBCacheConfig(residual_diff_threshold=0)
    for config in (never, lab.schedule(tuple(range(NUM_STEPS)))):
        with enable_acceleration(lab.pipe, config):
            assert lab.run().equal(full)
        assert attributes(lab) == before
    with lab.enable((0, 5)) as acceleration:
        reused = lab.run()
        stats = acceleration.stats
    assert reused.isfinite().all() and not reused.equal(full)
    computed, again = stats.computed_steps["transformer"], stats.reused_steps["transformer"]
    assert computed["pred_cond"] == computed["pred_uncond"] == [0, 5]
    # It begins after step 0, so that its own first step has to be computed; the others of the step are not.
    first, *later = sorted(computed[SKIPPED_BRANCH] + again[SKIPPED_BRANCH])
    assert first > 0 and computed[SKIPPED_BRANCH] == [first] and again[SKIPPED_BRANCH] == later
    assert lab.run().equal(full)


def test_a_block_at_the_edge_of_the_range_that_the_guider_skips_moves_the_edge() -> None:
    lab = motif(skipped=[0])
    with lab.enable((0, 1, 2, 3)) as acceleration:
        close = lab.run()
        assert acceleration.stats.reused_steps["transformer"][SKIPPED_BRANCH] == [4]
    assert (close - lab.full).norm() < 0.2 * lab.full.norm()
