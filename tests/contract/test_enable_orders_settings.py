"""Acceleration beside other things that hook into the same modules, enabled and removed in either order.

In every setting: all-compute equals the plain run of the same setting bit for bit, reuse really happens, disable
restores.
"""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers.hooks import apply_group_offloading

from .conftest import CLASSES, NUM_STEPS, Lab, assert_gone, make_lab
from .settings import CHOICE, METHODS, REMOVABLE, SETTINGS, Method, Setting, every_method, every_order, in_order

pytestmark = pytest.mark.usefixtures("folder", "fresh_compiler")
ALL = tuple(range(NUM_STEPS))
NOTHING = "nothing"
# Settings that reach the blocks as another one does; once is enough for them.
LIKE_ANOTHER = ("diffusers hook", "two diffusers hooks", "group offload by pairs of blocks", "compile blocks")


@functools.cache
def full_run(cls: str, name: str) -> torch.Tensor:
    """What a pipeline of the class makes in the setting, with nothing else done to it."""
    lab = fresh_lab(cls)
    (SETTINGS | {NOTHING: Setting(lambda lab: None)})[name].apply(lab)
    return lab.run()


@functools.cache
def reusing_run(cls: str, name: str, method: Method) -> torch.Tensor:
    """The same with reuse, enabled last."""
    lab = fresh_lab(cls)
    (SETTINGS | {NOTHING: Setting(lambda lab: None)})[name].apply(lab)
    with method.enable(lab):
        return lab.run()


def fresh_lab(cls: str) -> Lab:
    return make_lab(*next(pair for pair in CLASSES if pair[1].endswith(f".{cls}")))


def assert_all_compute_reuse_and_disable(cls, name, order, method, monkeypatch):
    lab, setting = fresh_lab(cls), SETTINGS[name]
    expected, expected_reuse = full_run(cls, name), reusing_run(cls, name, method)
    assert not expected_reuse.equal(expected)

    acceleration = in_order(order, lab, setting, method.enable_never)
    for _ in range(2):
        assert lab.run().equal(expected)
        lab.assert_follows(acceleration, ALL)
    acceleration.disable()
    assert_gone(lab, monkeypatch, expected)

    with method.enable(lab) as acceleration:
        assert lab.run().equal(expected_reuse)
        lab.assert_follows(acceleration, method.compute)
    assert_gone(lab, monkeypatch, expected)


@every_order
@pytest.mark.parametrize("name", SETTINGS)
def test_all_compute_reuse_and_disable(name, order, monkeypatch):
    assert_all_compute_reuse_and_disable("WanPipeline", name, order, METHODS["schedule"], monkeypatch)


@every_order
@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in LIKE_ANOTHER])
def test_all_compute_reuse_and_disable_under_the_probe(name, order, monkeypatch):
    assert_all_compute_reuse_and_disable("WanPipeline", name, order, METHODS["probe"], monkeypatch)


@every_order
@pytest.mark.parametrize("name", CHOICE)
@pytest.mark.parametrize("cls", ["HunyuanVideoPipeline", "CogVideoXPipeline"])
def test_all_compute_reuse_and_disable_on_other_families(cls, name, order, monkeypatch):
    """One has two kinds of blocks, the other a scheduler that tells no step. The probe has all kinds of ranges."""
    assert_all_compute_reuse_and_disable(cls, name, order, METHODS["probe"], monkeypatch)


@every_method
@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.startswith("compile")])
def test_what_is_done_to_a_reusing_pipeline_keeps_it_reusing(wan, name, method, monkeypatch):
    acceleration = in_order("after", wan, SETTINGS[name], method.enable)
    first = wan.run()
    assert first.equal(reusing_run("WanPipeline", name, method))
    wan.assert_follows(acceleration, method.compute)
    assert wan.run().equal(first)
    wan.assert_follows(acceleration, method.compute)
    acceleration.disable()
    assert_gone(wan, monkeypatch, full_run("WanPipeline", name))


@every_method
@every_order
@pytest.mark.parametrize("first_out", ["setting", "acceleration"])
@pytest.mark.parametrize("name", REMOVABLE)
def test_removal_in_either_order(wan, name, order, method, first_out, monkeypatch):
    setting = SETTINGS[name]
    plain, reused = full_run("WanPipeline", NOTHING), reusing_run("WanPipeline", NOTHING, method)
    acceleration = in_order(order, wan, setting, method.enable)
    assert wan.run().equal(reused)
    if first_out == "setting":
        setting.remove(wan)
        assert wan.run().equal(reused)
        wan.assert_follows(acceleration, method.compute)
        acceleration.disable()
    else:
        acceleration.disable()
        assert_gone(wan, monkeypatch, plain)
        setting.remove(wan)
    assert_gone(wan, monkeypatch, plain)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="diffusers refuses group offload with use_stream=True unless the onload device has streams",
)
@every_order
def test_streamed_group_offload(wan, order):
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

    acceleration = in_order(order, wan, Setting(apply), Lab.enable)
    first = wan.run()
    wan.assert_follows(acceleration)
    assert wan.run().equal(first)
    wan.assert_follows(acceleration)
