"""What profiles and joint plans add to a run, on every pipeline class: recorded residuals, partial steps, weights."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, enable_acceleration
from dit_accel.actions import PartialSteps
from dit_accel.installation import Installation
from dit_accel.profiling.residuals import ResidualSampler

from .conftest import CLASSES, COMPUTE, NUM_STEPS, Lab, attributes

# These begin inside the grid, or run on a second grid: no branch runs at every one of its steps.
NOT_COMPARABLE = {
    "CogVideoXVideoToVideoPipeline",
    "WanVideoToVideoPipeline",
    "LTXI2VLongMultiPromptPipeline",
    "LTX2DFRTemporalRefinePipeline",
}
every_class = pytest.mark.parametrize("lab", CLASSES, indirect=True, ids=lambda pair: pair[1].rsplit(".", 1)[1])


@every_class
def test_recording_residuals_changes_nothing(lab: Lab) -> None:
    full, before = lab.full, attributes(lab)
    sampler = ResidualSampler()
    with ExitStack() as undo:
        installation = Installation(lab.pipe, lab.spec, undo)
        for name, denoiser in installation.denoisers.items():
            undo.callback(sampler.install(name, denoiser, lab.spec.denoisers[name]))
            installation.observe(name, sampler)
        installation.start()
        assert torch.equal(lab.run(), full)
    assert attributes(lab) == before
    found = sampler.gram(len(sampler.times))
    if lab.name.rsplit(".", 1)[1] in NOT_COMPARABLE:
        assert found is None
        return
    assert found is not None
    gram, count = found
    assert count > 0 and bool((gram.diagonal() > 0).all())
    assert float(torch.linalg.eigvalsh(gram).min()) > -1e-9 * float(gram.trace())


@every_class
def test_partial_steps_are_those_of_dbcache(lab: Lab) -> None:
    """A schedule whose other steps run the first block is DBCache with the same compute steps forced."""
    if any(found.last <= 1 for found in lab.ranges().values()):
        pytest.skip("there is one block to probe and none to cache")
    num_steps = lab.calls[-1].num_steps
    compute = tuple(step for step in COMPUTE if step < num_steps)
    others = tuple(step for step in range(num_steps) if step not in compute)
    schedule = CacheSchedule(num_steps, compute, partial=PartialSteps(others, 1, 0))
    forced = DBCacheConfig(
        compute_steps=CacheSchedule(num_steps, compute),
        residual_diff_threshold=1e9,
        max_warmup_steps=0,
        max_continuous_cached_steps=None,
        always_compute_last=False,
    )
    with enable_acceleration(lab.pipe, forced) as acceleration:
        expected, steps = lab.run(), acceleration.stats.reused_steps
    with enable_acceleration(lab.pipe, LeMiCaConfig(schedule)) as acceleration:
        found, stats = lab.run(), acceleration.stats
    assert torch.equal(found, expected)
    assert stats.partial_steps == steps
    assert torch.equal(lab.run(), lab.full)


@every_class
def test_weights_of_the_newest_alone_are_to_hold(lab: Lab) -> None:
    """A sum in which all but the newest residual count nothing gives what holding gives."""
    num_steps = lab.calls[-1].num_steps
    compute = (0, 1, 4)
    forecasts = {step: (0.0, 1.0) for step in range(2, num_steps) if step not in compute}
    with enable_acceleration(lab.pipe, LeMiCaConfig(CacheSchedule(num_steps, compute))):
        expected = lab.run()
    with enable_acceleration(lab.pipe, LeMiCaConfig(CacheSchedule(num_steps, compute, forecasts=forecasts))) as it:
        assert torch.equal(lab.run(), expected)
        assert it.stats.num_steps == num_steps <= NUM_STEPS + 1
    assert torch.equal(lab.run(), lab.full)
