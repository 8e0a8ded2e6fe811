"""What users do to a pipeline besides accelerating it, and ways to do it before or after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook as AccelerateHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading

from dit_accel.api import Acceleration

from .conftest import COMPUTE, FOLDER, NUM_STEPS, Lab

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
        for name, denoiser in lab.denoisers.items():
            for attribute in lab.spec.denoisers[name].lists:
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
# What can be tried on every family: each hooks in at another place.
CHOICE = ["group offload by blocks", "model CPU offload", "compile in place", "layerwise casting"]
REMOVABLE = [name for name, setting in SETTINGS.items() if setting.remove]
every_order = pytest.mark.parametrize("order", ORDERS)


class Method(NamedTuple):
    """A way to accelerate, once so that nothing is ever reused and once so that these steps are computed."""

    enable_never: Callable[[Lab], Acceleration]
    enable: Callable[[Lab], Acceleration]
    compute: tuple[int, ...]


METHODS = {
    "schedule": Method(Lab.enable_all_compute, Lab.enable, COMPUTE),
    "probe": Method(
        lambda lab: lab.enable_dbcache(residual_diff_threshold=0, corrector_blocks=1),
        lambda lab: lab.enable_dbcache(corrector_blocks=1),
        tuple(range(0, NUM_STEPS, 3)),  # two are reused for each computed one
    ),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def in_order(order: str, lab: Lab, setting: Setting, enable: Callable[[Lab], Any]) -> Any:
    """Apply the setting before or after enabling; either way after a call of the pipeline as it was."""
    lab.run(seed=1)
    if order == "before":
        setting.apply(lab)
        lab.run(seed=1)
        return enable(lab)
    acceleration = enable(lab)
    lab.run(seed=1)
    setting.apply(lab)
    return acceleration
