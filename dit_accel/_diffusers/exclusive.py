"""What cannot be had together with acceleration: other caches on the denoiser, and copies of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..errors import AlreadyAcceleratedError
from .blocks import Undo

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def refuse_other_caches(pipe: DiffusionPipeline, denoisers: dict[str, nn.Module]) -> None:
    """Raise `AlreadyAcceleratedError` if a denoiser has another cache: one of diffusers, or of cache-dit."""
    for name, module in denoisers.items():
        where = f"{type(pipe).__name__}.{name}"
        if getattr(module, "is_cache_enabled", False):
            raise AlreadyAcceleratedError(
                f"{where} has a diffusers cache enabled. Call pipe.{name}.disable_cache() before enable_acceleration."
            )
        # Of the hooks that can be applied by functions, too, only those of caches keep something between calls.
        kinds = {type(hook).__name__ for part in module.modules() for hook in _hooks(part) if hook._is_stateful}
        if kinds:
            raise AlreadyAcceleratedError(
                f"{where} has hooks of a diffusers cache on it: {', '.join(sorted(kinds))}. Remove them, or load the "
                "pipeline anew, before enable_acceleration."
            )
        if getattr(module, "_is_cached", False):
            raise AlreadyAcceleratedError(
                f"{where} is cached by cache-dit. Call cache_dit.disable_cache(pipe) before enable_acceleration."
            )


def _hooks(module: nn.Module) -> list[Any]:
    registry = vars(module).get("_diffusers_hook")
    return [] if registry is None else list(registry.hooks.values())


def keep_exclusive(denoiser: nn.Module, blocks: Iterable[nn.Module]) -> Undo:
    """Have the denoiser refuse diffusers' caches, and it and its blocks refuse to be copied; returns the removal."""
    refusals: list[tuple[nn.Module, str, Callable[..., NoReturn]]] = [
        (module, "__reduce_ex__", _refuse_copy) for module in (denoiser, *map(unwrap_module, blocks))
    ]
    if hasattr(denoiser, "enable_cache"):
        refusals.append((denoiser, "enable_cache", _refuse_cache))
    for module, name, refusal in refusals:
        setattr(module, name, refusal)

    def undo() -> None:
        for module, name, _ in refusals:
            delattr(module, name)

    return undo


def _refuse_copy(protocol: int) -> NoReturn:
    """What `copy.copy`, `copy.deepcopy`, `pickle` and `torch.save` call."""
    raise AlreadyAcceleratedError(
        "An accelerated denoiser cannot be copied or pickled, nor one of its blocks: the copy would run the blocks of "
        "the original. Call .disable() on the handle first, and enable acceleration on the copy. save_pretrained is "
        "right as it is."
    )


def _refuse_cache(config: Any) -> NoReturn:
    """In place of diffusers' ``enable_cache``."""
    raise AlreadyAcceleratedError(
        f"This denoiser is accelerated, and {type(config).__name__} asks for a diffusers cache besides: each would "
        "reuse what the other has made up. Call .disable() on the handle first, or leave that cache out."
    )
