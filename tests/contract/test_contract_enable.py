"""What every family gets for free: enabling and disabling leave nothing behind, and pipelines do not interact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dit_accel import disable_acceleration, enable_acceleration
from dit_accel.configs import LeMiCaConfig
from dit_accel.errors import AlreadyAcceleratedError
from dit_accel.schedule import CacheSchedule

from .conftest import COMPUTE, NUM_STEPS, Lab

OTHER_COMPUTE = (0, 1, 5)


def attributes(lab: Lab) -> dict[str, Any]:
    """Names of all instance attributes of the pipeline and its modules, and how many hooks hang on each module."""
    found: dict[str, Any] = {"": sorted(vars(lab.pipe))}
    for name, component in lab.pipe.components.items():
        for path, module in component.named_modules() if isinstance(component, torch.nn.Module) else ():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
            found[f"{name}.{path}"] = (sorted(vars(module)), hooks)
    return found


def test_enable_then_disable_is_bit_identical_and_leaves_nothing(lab):
    expected = lab.run()
    before = attributes(lab)
    acceleration = lab.enable()
    assert attributes(lab) != before
    assert not lab.run().equal(expected)
    acceleration.disable()
    assert attributes(lab) == before
    assert lab.run().equal(expected)


def test_disable_by_the_pipeline_is_the_same(lab):
    expected = lab.run()
    before = attributes(lab)
    lab.enable()
    disable_acceleration(lab.pipe)
    disable_acceleration(lab.pipe)
    assert attributes(lab) == before
    assert lab.run().equal(expected)


def test_a_second_enable_raises_and_changes_nothing(lab):
    acceleration = lab.enable()
    expected, before = lab.run(), attributes(lab)
    with pytest.raises(AlreadyAcceleratedError, match=r"already accelerated.*disable_acceleration"):
        lab.enable(OTHER_COMPUTE)
    assert attributes(lab) == before
    assert lab.run().equal(expected)
    lab.assert_follows(acceleration)


def test_a_second_enable_through_a_pipeline_that_shares_the_denoiser_raises(lab):
    sharing = Lab(lab.spec, type(lab.pipe)(**lab.pipe.components))
    with lab.enable(), pytest.raises(AlreadyAcceleratedError, match="already accelerated"):
        sharing.enable()
    sharing.enable().disable()


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_pipelines_of_one_class_do_not_interact(lab, first_out):
    labs, schedules = (lab, lab.another()), (COMPUTE, OTHER_COMPUTE)
    plain, alone = lab.run(), []
    for one, schedule in zip(labs, schedules, strict=True):
        with one.enable(schedule):
            alone.append(one.run())
    assert not alone[0].equal(alone[1])
    handles = [one.enable(schedule) for one, schedule in zip(labs, schedules, strict=True)]
    for _ in range(2):
        for one, expected, handle, schedule in zip(labs, alone, handles, schedules, strict=True):
            assert one.run().equal(expected)
            one.assert_follows(handle, schedule)
    handles[first_out].disable()
    assert labs[first_out].run().equal(plain)
    assert labs[1 - first_out].run().equal(alone[1 - first_out])
    handles[1 - first_out].disable()
    assert labs[1 - first_out].run().equal(plain)


def test_a_baseline_run_before_enabling_makes_no_difference(lab):
    with lab.enable():
        expected = lab.run()
    other = lab.another()
    other.run(seed=1)
    with other.enable():
        assert other.run().equal(expected)


def test_the_config_is_what_was_given(lab):
    config = LeMiCaConfig(CacheSchedule(NUM_STEPS, COMPUTE))
    with enable_acceleration(lab.pipe, config) as acceleration:
        assert acceleration.configs == (config,)
