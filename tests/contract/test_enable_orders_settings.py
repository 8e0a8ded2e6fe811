"""Acceleration beside other things that hook into the same modules, enabled and removed in either order.

In every setting: all-compute equals the plain run of the same setting bit for bit, reuse really happens, disable
restores.
"""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import apply_group_offloading

from .conftest import NUM_STEPS, assert_gone
from .settings import REMOVABLE, SETTINGS, Setting, every_order, in_order

pytestmark = pytest.mark.usefixtures("folder", "fresh_compiler")


@every_order
@pytest.mark.parametrize("name", SETTINGS)
def test_all_compute_reuse_and_disable(lab, name, order, monkeypatch):
    setting = SETTINGS[name]
    reference = lab.another()
    setting.apply(reference)
    expected = reference.run()
    with reference.enable():
        expected_reuse = reference.run()

    acceleration = in_order(order, lab, setting, lab.enable_all_compute)
    for _ in range(2):
        assert lab.run().equal(expected)
        lab.assert_follows(acceleration, tuple(range(NUM_STEPS)))
    acceleration.disable()
    assert_gone(lab, monkeypatch, expected)

    with lab.enable() as acceleration:
        for _ in range(2):
            assert lab.run().equal(expected_reuse)
            lab.assert_follows(acceleration)
    assert_gone(lab, monkeypatch, expected)


@every_order
@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.startswith("compile")])
def test_reuse_and_disable(lab, name, order, monkeypatch):
    setting = SETTINGS[name]
    reference = lab.another()
    setting.apply(reference)
    expected = reference.run()

    acceleration = in_order(order, lab, setting, lab.enable)
    first = lab.run()
    assert not first.equal(expected)
    lab.assert_follows(acceleration)
    assert lab.run().equal(first)
    lab.assert_follows(acceleration)
    acceleration.disable()
    assert_gone(lab, monkeypatch, expected)


@every_order
@pytest.mark.parametrize("first_out", ["setting", "acceleration"])
@pytest.mark.parametrize("name", REMOVABLE)
def test_removal_in_either_order(lab, name, order, first_out, monkeypatch):
    setting = SETTINGS[name]
    plain = lab.run()
    with lab.enable():
        reused = lab.run()
    acceleration = in_order(order, lab, setting, lab.enable)
    assert lab.run().equal(reused)
    if first_out == "setting":
        setting.remove(lab)
        assert lab.run().equal(reused)
        lab.assert_follows(acceleration)
        acceleration.disable()
    else:
        acceleration.disable()
        assert_gone(lab, monkeypatch, plain)
        setting.remove(lab)
    assert_gone(lab, monkeypatch, plain)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="diffusers refuses group offload with use_stream=True unless the onload device has streams",
)
@every_order
def test_streamed_group_offload(lab, order):
    """Its trap, which exists only with streams: hooks added later are dropped after the first forward."""

    def apply(lab):
        for name, component in lab.pipe.components.items():
            if name in lab.denoisers:
                apply_group_offloading(
                    component,
                    onload_device=torch.device("cuda"),
                    offload_device=torch.device("cpu"),
                    offload_type="block_level",
                    num_blocks_per_group=1,
                    use_stream=True,
                )
            elif isinstance(component, torch.nn.Module):
                component.to("cuda")

    acceleration = in_order(order, lab, Setting(apply), lab.enable)
    first = lab.run()
    lab.assert_follows(acceleration)
    assert lab.run().equal(first)
    lab.assert_follows(acceleration)
