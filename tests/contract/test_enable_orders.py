"""Acceleration beside other things that hook into the same modules, enabled and removed in either order.

In every setting: all-compute equals the plain run of the same setting bit for bit, reuse really happens, disable
restores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook as AccelerateHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from torch._dynamo.testing import CompileCounter

from dit_accel.cache.executor import BlockRangeExecutor

from .conftest import NUM_STEPS, Lab

ORDERS = ["before", "after"]
Change = Callable[[Lab], object]


class Watching(ModelHook):
    """A diffusers hook around the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class Replacing(Watching):
    """A diffusers hook with a forward of its own."""

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


class AccelerateWatching(AccelerateHook):
    """An accelerate hook around the forward."""

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


@dataclass(frozen=True)
class Setting:
    """Something that a user does to a pipeline, and how it is undone where it can be."""

    apply: Change
    remove: Change | None = None


def block_hooks(*kinds: type[ModelHook]) -> Setting:
    def apply(lab: Lab) -> None:
        for block in lab.blocks:
            for kind in kinds:
                HookRegistry.check_if_exists_or_initialize(block).register_hook(kind(), kind.__name__)

    def remove(lab: Lab) -> None:
        for block in lab.blocks:
            for kind in reversed(kinds):
                block._diffusers_hook.remove_hook(kind.__name__)

    return Setting(apply, remove)


def accelerate_hooks() -> Setting:
    return Setting(
        lambda lab: [add_hook_to_module(block, AccelerateWatching()) for block in lab.blocks],
        lambda lab: [remove_hook_from_module(block) for block in lab.blocks],
    )


def group_offload(**how: Any) -> Setting:
    """To a file rather than to the same CPU: then weights that were not brought back would be garbage."""

    def apply(lab: Lab) -> None:
        for index, denoiser in enumerate(lab.denoisers.values()):
            folder = FOLDER[0] / f"{id(lab)}-{index}"
            apply_group_offloading(
                denoiser, onload_device=torch.device("cpu"), offload_to_disk_path=str(folder), **how
            )

    return Setting(apply)


FOLDER: list[Path] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[None]:
    FOLDER.append(tmp_path)
    yield
    FOLDER.clear()


def model_offload() -> Setting:
    return Setting(
        lambda lab: lab.pipe.enable_model_cpu_offload(device="cpu"), lambda lab: lab.pipe.remove_all_hooks()
    )


def sequential_offload() -> Setting:
    """What `enable_sequential_cpu_offload` does to a denoiser: between calls its weights are on the meta device.

    On the denoisers only, because accelerate cannot do it to this text encoder, with or without acceleration.
    """
    return Setting(
        lambda lab: [cpu_offload(denoiser, torch.device("cpu")) for denoiser in lab.denoisers.values()],
        lambda lab: [remove_hook_from_module(denoiser, recurse=True) for denoiser in lab.denoisers.values()],
    )


def layerwise_casting() -> Setting:
    return Setting(
        lambda lab: [
            denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
            for denoiser in lab.denoisers.values()
        ]
    )


def compiled_in_place() -> Setting:
    return Setting(lambda lab: [block.compile(backend="eager") for block in lab.blocks])


def compiled_blocks() -> Setting:
    """`torch.compile` in the ``ModuleList``: the block in it becomes a wrapper module."""

    def apply(lab: Lab) -> None:
        for denoiser in lab.denoisers.values():
            for attribute in lab.spec.blocks.lists:
                blocks = getattr(denoiser, attribute)
                for index, block in enumerate(blocks):
                    blocks[index] = torch.compile(block, backend="eager")

    return Setting(apply)


def compiled_repeated_blocks() -> Setting:
    return Setting(
        lambda lab: [d.compile_repeated_blocks(backend="eager", fullgraph=True) for d in lab.denoisers.values()]
    )


def compiled_denoiser() -> Setting:
    return Setting(
        lambda lab: [setattr(lab.pipe, name, torch.compile(d, backend="eager")) for name, d in lab.denoisers.items()]
    )


SETTINGS = {
    "diffusers hook": block_hooks(Watching),
    "diffusers hook with new_forward": block_hooks(Replacing),
    "two diffusers hooks": block_hooks(Watching, Replacing),
    "two diffusers hooks, the other way round": block_hooks(Replacing, Watching),
    "accelerate hook": accelerate_hooks(),
    "model CPU offload": model_offload(),
    "sequential CPU offload": sequential_offload(),
    "group offload by blocks": group_offload(offload_type="block_level", num_blocks_per_group=1),
    "group offload by pairs of blocks": group_offload(offload_type="block_level", num_blocks_per_group=2),
    "group offload by leaves": group_offload(offload_type="leaf_level"),
    "layerwise casting": layerwise_casting(),
    "compile in place": compiled_in_place(),
    "compile blocks": compiled_blocks(),
    "compile repeated blocks": compiled_repeated_blocks(),
    "compile denoiser": compiled_denoiser(),
}
REMOVABLE = [name for name, setting in SETTINGS.items() if setting.remove]
every_order = pytest.mark.parametrize("order", ORDERS)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def in_order(order: str, lab: Lab, setting: Setting, enable: Callable[[], Any]) -> Any:
    """Apply the setting before or after enabling; either way after a call of the pipeline as it was."""
    lab.run(seed=1)
    if order == "before":
        setting.apply(lab)
        lab.run(seed=1)
        return enable()
    acceleration = enable()
    lab.run(seed=1)
    setting.apply(lab)
    return acceleration


def assert_gone(lab: Lab, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor) -> None:
    """The pipeline does as ever and none of its calls comes near the executor any more."""

    def fail(*_: Any) -> None:
        raise AssertionError("the executor is still in the chain")

    with monkeypatch.context() as patch:
        # All its methods read this first. To patch them would miss the bound ones that a wrapper holds.
        patch.setattr(BlockRangeExecutor, "_call", property(fail, fail), raising=False)
        assert lab.run().equal(expected)


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


@pytest.mark.parametrize("removals", list(permutations(["inner", "acceleration", "outer"])), ids=" ".join)
@pytest.mark.parametrize("kinds", [(Watching, Replacing), (Replacing, Watching)], ids=["W-R", "R-W"])
def test_hooks_on_both_sides_removed_in_any_order(lab, kinds, removals, monkeypatch):
    """One diffusers hook before and one after; diffusers' own removal is only right last-in-first-out."""
    plain = lab.run()
    inner, outer = (block_hooks(kind) for kind in kinds)
    inner.apply(lab)
    acceleration = lab.enable()
    outer.apply(lab)
    reused = lab.run()
    for removal in removals:
        {"inner": inner.remove, "outer": outer.remove, "acceleration": lambda _: acceleration.disable()}[removal](lab)
        is_enabled = "acceleration" in removals[removals.index(removal) + 1 :]
        assert lab.run().equal(reused if is_enabled else plain)
    assert_gone(lab, monkeypatch, plain)


def test_hooks_still_see_every_call(lab):
    """The wrapper is innermost, so what others count does not change."""
    hooks = [Watching() for _ in lab.blocks]
    for block, hook in zip(lab.blocks, hooks, strict=True):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, "watching")
    lab.run()
    counts = [hook.calls for hook in hooks]
    with lab.enable():
        lab.run()
    assert [hook.calls for hook in hooks] == [2 * count for count in counts]
    assert min(counts) > 0


@every_order
def test_regional_compilation_needs_no_graph_more_for_another_block(lab, order):
    counter = CompileCounter()

    def compile_blocks(lab: Lab) -> None:
        for denoiser in lab.denoisers.values():
            denoiser.compile_repeated_blocks(backend=counter, fullgraph=True)

    steps = [compile_blocks, Lab.enable]
    for step in steps if order == "before" else reversed(steps):
        step(lab)
    lab.run()
    # The block, and three of one operation each: copied at the entry, passed on, and the residual added at the exit.
    assert counter.frame_count == 4 * len(lab.denoisers)


@every_order
def test_a_compiled_denoiser_is_not_compiled_anew_for_every_step(lab, order):
    counter = CompileCounter()
    whole = Setting(
        lambda lab: [setattr(lab.pipe, name, torch.compile(d, backend=counter)) for name, d in lab.denoisers.items()]
    )
    acceleration = in_order(order, lab, whole, lab.enable)
    lab.run()
    lab.assert_follows(acceleration)
    frames = counter.frame_count
    assert frames <= 4 * len(lab.blocks)
    for seed in (1, 2):
        lab.run(seed=seed)
    assert counter.frame_count == frames


@pytest.mark.skip(
    reason="group offload with use_stream=True: diffusers refuses it unless the onload device has streams, and a CPU "
    "has none; its trap (hooks added later are dropped after the first forward) exists only with streams"
)
def test_streamed_group_offload() -> None:
    """Placeholder that names what a CPU cannot check."""
