"""What users do to a pipeline besides accelerating it, and how it is undone where it can be."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading

CPU = torch.device("cpu")
HOOK = "watching"


class Watching(ModelHook):
    """A diffusers hook around the forward, with a forward of its own."""

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


@dataclass(frozen=True)
class Setting:
    """``remove`` is None if there is no way back but another pipeline."""

    apply: Callable[[Any], object]
    remove: Callable[[Any], object] | None


def _group_offload(**how: Any) -> Setting:
    """To files rather than to the same CPU: then weights that were not brought back would be garbage."""

    def apply(pipe: Any) -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(pipe.transformer, shutil.rmtree, folder)
        apply_group_offloading(pipe.transformer, onload_device=CPU, offload_to_disk_path=folder, **how)

    return Setting(apply, None)


# Sequential offload on the denoiser only, because accelerate cannot do it to the text encoder.
OFFLOADS = {
    "none": Setting(lambda pipe: None, lambda pipe: None),
    "model": Setting(lambda pipe: pipe.enable_model_cpu_offload(device="cpu"), lambda pipe: pipe.remove_all_hooks()),
    "sequential": Setting(
        lambda pipe: cpu_offload(pipe.transformer, CPU),
        lambda pipe: remove_hook_from_module(pipe.transformer, recurse=True),
    ),
    "blocks": _group_offload(offload_type="block_level", num_blocks_per_group=1),
    "leaves": _group_offload(offload_type="leaf_level"),
}


def add_hooks(pipe: Any) -> None:
    """A hook of diffusers on every block."""
    for block in pipe.transformer.blocks:
        HookRegistry.check_if_exists_or_initialize(block).register_hook(Watching(), HOOK)


def remove_hooks(pipe: Any) -> None:
    """Take them off."""
    for block in pipe.transformer.blocks:
        block._diffusers_hook.remove_hook(HOOK)


def compile_blocks(pipe: Any, *, is_on: bool) -> None:
    """Compile every block in place, or not any more."""
    for block in pipe.transformer.blocks:
        if is_on:
            block.compile(backend="eager")
        else:
            block._compiled_call_impl = None
