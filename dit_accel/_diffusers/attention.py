"""The attention seam: a model's self-attention computes through an `AttentionLayer` of ours.

The processor of an attention module is replaced, on that instance, by a copy whose code is the original's with one
global name bound anew: ``dispatch_attention_fn``, or ``F`` in processors that call torch themselves. So projections,
norms, rotary embedding and everything else stay the model's. The block around it tells which layer is running.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional
from diffusers.hooks.layer_skip import AttentionProcessorSkipHook
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..errors import UnsupportedPipelineError
from .blocks import Forward, Undo, attribute
from .parallel import context_of, in_exchange, sum_over


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of self-attention.

    Args:
        query: [B, S, H, D], after norm and rotary embedding.
        key, value: [B, K, H or fewer, D].
        key_mask: [B, K] bool, False at padded text, which nothing attends to; None: every key counts.
        scale: factor of the dot product; None: 1 / √D.
        dense_reason: why only ``dense`` is right, or None.
        dense: computes the call as the model would have, [B, S, H, D].
        rank_sum: under context parallelism, adds values up over the ranks that hold the other heads; tokens then stand
            as rank after rank had them. None: all heads are here.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    key_mask: Tensor | None
    scale: float | None
    dense_reason: str | None
    dense: Callable[[], Tensor]
    rank_sum: Callable[[Tensor], Tensor] | None = None


class AttentionLayer(Protocol):
    """Takes over the self-attention of one block."""

    masks_only_text: bool
    """Whether the attention mask that the model gives is False at padded text and nowhere else."""

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward of the block begins, with these arguments."""

    def attend(self, call: AttentionCall) -> Tensor:
        """Compute one call, [B, S, H, D]."""

    def leave(self) -> None:
        """The forward is over (not called if it raised)."""


_CURRENT: ContextVar[AttentionLayer | None] = ContextVar("dit_accel_attention_layer", default=None)


def run_in(layer: AttentionLayer, original: Forward) -> Forward:
    """The forward of a block, with ``layer`` in charge of the attention that was rerouted in it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        layer.enter(args, kwargs)
        token = _CURRENT.set(layer)
        try:
            output = original(*args, **kwargs)
        finally:
            _CURRENT.reset(token)
        layer.leave()
        return output

    return forward


def find_attention(block: nn.Module, path: str) -> nn.Module:
    """The attention module at ``path`` of a block.

    Raises:
        UnsupportedPipelineError: there is none, or none with a processor.
    """
    found = attribute(unwrap_module(block), path, None)
    if not hasattr(found, "processor"):
        raise UnsupportedPipelineError(
            f"{type(block).__name__} has no attention with a processor at {path!r}; its specification expects one."
        )
    return cast("nn.Module", found)


def reroute_attention(attention: nn.Module, processors: Mapping[str, str]) -> Undo:
    """Have ``attention`` compute through the current `AttentionLayer`; returns the removal.

    Args:
        attention: a diffusers attention module, with a ``processor``.
        processors: class name of a processor -> qualified name of one that does the same and is to be used instead.

    Raises:
        UnsupportedPipelineError: the processor calls no attention function that can be rerouted.
    """
    owner: Any = unwrap_module(attention)
    original = owner.processor
    kind: Any = type(original)
    rerouted: Any = object.__new__(_rerouted_class(kind, processors.get(kind.__name__)))
    # One set of attributes for both: a backend that is set meanwhile must be there still when the original is back.
    object.__setattr__(rerouted, "__dict__", vars(original))
    owner.processor = rerouted

    def undo() -> None:
        if owner.processor is rerouted:
            owner.processor = original

    return undo


def is_perturbed(attention: nn.Module) -> bool:
    """Whether a guider has this attention's scores or output skipped in this very call."""
    registry = vars(unwrap_module(attention)).get("_diffusers_hook")
    return registry is not None and any(isinstance(h, AttentionProcessorSkipHook) for h in registry.hooks.values())


@functools.cache  # one class for all layers, or a compiled block would be compiled anew for each of them
def _rerouted_class(kind: type, stand_in: str | None) -> type:
    """A subclass of the processor class ``kind`` whose call, or that of ``stand_in``, reaches `_attend`."""
    source: Any = kind
    if stand_in is not None:
        module, _, name = stand_in.rpartition(".")
        source = getattr(importlib.import_module(module), name)
    original = source.__call__
    names = getattr(getattr(original, "__code__", None), "co_names", ())
    if "dispatch_attention_fn" in names:
        bound: dict[str, Any] = {"dispatch_attention_fn": _dispatch}
    elif "scaled_dot_product_attention" in names and "F" in names:
        bound = {"F": _functional()}
    else:
        raise UnsupportedPipelineError(
            f"SVG2 cannot reach the attention of {kind.__name__}: it calls neither dispatch_attention_fn nor "
            "F.scaled_dot_product_attention itself. Set the model's default attention processor, or leave SVG2 out."
        )
    # The compiler would read the globals of the module of that name instead.
    scope = {name: value for name, value in original.__globals__.items() if name != "__name__"} | bound
    call = types.FunctionType(
        _copy(original.__code__), scope, original.__name__, original.__defaults__, original.__closure__
    )
    call.__kwdefaults__ = original.__kwdefaults__
    call.__annotations__ = original.__annotations__  # diffusers looks at the signature
    # Guiders look processors up by their class.
    looks = property(lambda _: kind)
    return type(kind.__name__, (kind,), {"__call__": call, "__class__": looks, "__module__": kind.__module__})


def _copy(code: types.CodeType) -> types.CodeType:
    """The same code, also of functions inside. The compiler keeps its results with a code object, and they only work
    with the globals that they were made for."""
    return code.replace(co_consts=tuple(_copy(c) if isinstance(c, types.CodeType) else c for c in code.co_consts))


@functools.cache
def _functional() -> types.ModuleType:
    """torch.nn.functional with another attention, as what a processor knows as ``F``."""
    module = types.ModuleType("dit_accel_functional")
    vars(module).update({k: v for k, v in vars(torch.nn.functional).items() if not k.startswith("__")})
    vars(module)["scaled_dot_product_attention"] = _scaled_dot_product_attention
    return module


def _dispatch(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any) -> Tensor:
    """In place of ``dispatch_attention_fn``."""
    return _route(dispatch_attention_fn, query, key, value, attn_mask, options)


def _scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any
) -> Tensor:
    """In place of ``F.scaled_dot_product_attention``, where heads come before tokens."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return _route(_native, query, key, value, attn_mask, options).transpose(1, 2)


def _native(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any) -> Tensor:
    """torch's attention, with tokens before heads."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    return out.transpose(1, 2)


def _route(
    original: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, options: dict[str, Any]
) -> Tensor:
    """To `_attend`: in a compiled graph through an operator, so that the graph stays whole."""
    if not torch.compiler.is_compiling():
        return _attend(original, query, key, value, attn_mask, options)
    rest = {name: value for name, value in options.items() if name not in ("scale", "enable_gqa", "backend") and value}
    if rest or not (attn_mask is None or isinstance(attn_mask, Tensor)):
        return original(query, key, value, attn_mask, **options)
    backend = options.get("backend")
    return _compiled_attend(
        query,
        key,
        value,
        attn_mask,
        options.get("scale"),
        options.get("enable_gqa", False),
        None if backend is None else str(getattr(backend, "value", backend)),
        original is _native,
    )


@torch.library.custom_op("dit_accel::attend", mutates_args=())
def _compiled_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    scale: float | None,
    enable_gqa: bool,
    backend: str | None,
    is_native: bool,
) -> Tensor:
    """`_attend`, as one node of a graph. Which layer runs is looked up when the node runs."""
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    if not is_native:
        options["backend"] = backend
    original = _native if is_native else dispatch_attention_fn
    return _attend(original, query, key, value, attn_mask, options).contiguous()


@_compiled_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty((*query.shape[:3], value.shape[3]))


def _attend(
    original: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, options: dict[str, Any]
) -> Tensor:
    """Through the current layer; through ``original`` if there is none."""
    key_mask = _key_mask(attn_mask, key.shape[1])
    if key_mask is not None and attn_mask.dim() == 2:  # a processor that stands in leaves the mask as it comes
        attn_mask = key_mask[:, None, None]
    dense = functools.partial(original, query, key, value, attn_mask, **options)
    layer = _CURRENT.get()
    if layer is None or options.get("is_causal"):  # video attends both ways: what is causal is text among itself
        return dense()
    if not layer.masks_only_text:
        key_mask = None
    reason = _dense_reason(options, attn_mask)
    if reason is None and attn_mask is not None and key_mask is None:
        reason = "attention mask"
    scale, parallel = options.get("scale"), options.get("parallel_config")
    if reason is not None or context_of(parallel) is None:
        return layer.attend(AttentionCall(query, key, value, key_mask, scale, reason, dense))

    def local(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dense = functools.partial(original, query, key, value, **{**options, "parallel_config": None})
        gathered = AttentionCall(query, key, value, None, scale, None, dense, functools.partial(sum_over, parallel))
        return layer.attend(gathered)

    return in_exchange(local, query, key, value, parallel)


def _key_mask(attn_mask: Any, num_keys: int) -> Tensor | None:
    """[B, K] bool of a mask that says the same to every query, None of any other. One of text alone is [B, T]."""
    if not isinstance(attn_mask, Tensor):
        return None
    if attn_mask.dim() == 2:
        return torch.nn.functional.pad(attn_mask.bool(), (num_keys - attn_mask.shape[1], 0), value=True)
    is_of_keys = (
        attn_mask.dtype == torch.bool and attn_mask.dim() == 4 and attn_mask.shape[1] == attn_mask.shape[2] == 1
    )
    return attn_mask[:, 0, 0] if is_of_keys and attn_mask.shape[3] == num_keys else None


def _dense_reason(options: Mapping[str, Any], attn_mask: Any) -> str | None:
    """What about the call only the model's own attention can do."""
    if options.get("dropout_p"):
        return "dropout"
    if options.get("attention_kwargs"):
        return "attention_kwargs"
    if context_of(options.get("parallel_config")) is None:
        return None
    if attn_mask is not None:
        return "attention mask under context parallelism"
    return "gradients" if torch.is_grad_enabled() else None  # no longer to be seen between the exchanges
