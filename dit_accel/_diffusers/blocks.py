"""A denoiser's blocks: where they are, and a wrapper around the innermost callable of a block's forward chain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks.layer_skip import TransformerBlockSkipHook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..errors import UnsupportedPipelineError
from ..specs import BlockSpec

Undo = Callable[[], None]
Forward = Callable[..., Any]


def is_bypassed(block: nn.Module) -> bool:
    """Whether a guider (skip-layer guidance) has the block skipped in this very call: its forward is not reached."""
    registry = vars(unwrap_module(block)).get("_diffusers_hook")
    return registry is not None and any(
        isinstance(hook, TransformerBlockSkipHook) and hook.dropout == 1.0 for hook in registry.hooks.values()
    )


def find_blocks(name: str, denoiser: nn.Module, spec: BlockSpec) -> list[nn.Module]:
    """The denoiser's blocks in execution order."""
    lists = [list(attribute(denoiser, path, ())) for path in spec.lists]
    if spec.is_interleaved and len({len(blocks) for blocks in lists}) > 1:
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has {', '.join(str(len(blocks)) for blocks in lists)} blocks under "
            f"{', '.join(spec.lists)}; lists that take turns must be equally long."
        )
    if spec.is_interleaved:
        lists = [list(turn) for turn in zip(*lists, strict=True)]
    blocks = [block for group in lists for block in group]
    if not blocks:
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has no blocks under {', '.join(spec.lists)}; its specification "
            "expects them."
        )
    return blocks


def attribute(owner: Any, path: str, default: Any) -> Any:
    """``owner.a.b`` for the path ``"a.b"``."""
    for name in path.split("."):
        owner = getattr(owner, name, default)
    return owner


def stream_positions(block: nn.Module, streams: tuple[str, ...]) -> tuple[int, ...]:
    """Position of each stream among the parameters of the block's forward (without ``self``)."""
    names = list(inspect.signature(type(unwrap_module(block)).forward).parameters)[1:]
    missing = [name for name in streams if name not in names]
    if missing:
        raise UnsupportedPipelineError(
            f"{type(block).__name__}.forward has no argument {missing}; its specification names them. It has: {names}."
            " If it is a wrapper around the block, such as FullyShardedDataParallel, use one that leaves the block in "
            "its place: torch.distributed.fsdp.fully_shard."
        )
    return tuple(names.index(name) for name in streams)


def wrap_forward(module: nn.Module, make: Callable[[Forward], Forward]) -> Undo:
    """Put ``make(original)`` in place of the innermost forward of ``module``.

    Returns the removal, which is right whatever was hooked since.
    """
    owner, attribute = _innermost(module)
    was_own = attribute in vars(owner)
    original: Forward = getattr(owner, attribute)
    # Without the attributes of an earlier wrapper: older versions of torch would take what that one wraps for the
    # innermost callable of ours too, and leave ours out. Not recursive: what is inside stays compiled, and regional
    # compilation keeps one graph for all blocks.
    forward = torch.compiler.disable(functools.wraps(original, updated=())(make(original)), recursive=False)
    setattr(owner, attribute, forward)

    def undo() -> None:
        # Hooks that were added or removed meanwhile have moved the wrapper; `owner` may be out of the registry by now.
        for holder in (module, owner, *_hook_references(module)):
            for name in ("forward", "original_forward", "_old_forward"):
                if vars(holder).get(name) is not forward:
                    continue
                if holder is module and name == "forward" and not was_own:
                    del module.forward
                else:
                    setattr(holder, name, original)

    return undo


def _innermost(module: nn.Module) -> tuple[Any, str]:
    """Owner and attribute of the innermost callable: under diffusers' hooks, under accelerate's, or the forward.

    Whichever were there first are the inner ones. accelerate's, when they are removed, put back what they had wrapped:
    diffusers' that were around them are still listed then, and never called.
    """
    attribute = "_old_forward" if "_old_forward" in vars(module) else "forward"
    for reference in _hook_references(module):
        if _goes_through(vars(module).get(attribute), reference):
            return reference, "forward" if reference.original_forward is None else "original_forward"
    return module, attribute


def _goes_through(forward: Any, reference: Any) -> bool:
    """Whether a hook of diffusers is called by ``forward``, or by what that wraps."""
    while forward is not None:
        cells = getattr(getattr(forward, "func", None), "__closure__", None) or ()
        if any(cell.cell_contents is reference for cell in cells):
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False


def _hook_references(module: nn.Module) -> list[Any]:
    """diffusers' hooks on the module, innermost first."""
    return list(getattr(getattr(module, "_diffusers_hook", None), "_fn_refs", ()))
