"""Context parallelism: several processes hold parts of one denoiser's sequence, and all have to do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import _templated_context_parallel_attention
from torch import Tensor, nn

from ..errors import UnsupportedPipelineError


def rank_sum(denoiser: nn.Module, values: Tensor) -> Tensor:
    """``values`` added up over the ranks among which context parallelism divides the denoiser's sequence now.

    Ranks that run other pipelines in the same process group have no part in it.
    """
    return sum_over(getattr(denoiser, "_parallel_config", None), values)


def sum_over(parallel_config: Any, values: Tensor) -> Tensor:
    """``values`` added up, in place, over the ranks of a context parallel configuration; as they are without one."""
    context = context_of(parallel_config)
    if context is not None:
        torch.distributed.all_reduce(values, group=context._flattened_mesh.get_group())
    return values


def context_of(parallel_config: Any) -> Any:
    """The part of a parallel configuration that divides sequences, or None."""
    return getattr(parallel_config, "context_parallel_config", None)


def refuse_ring(pipeline: str, name: str, denoiser: nn.Module) -> None:
    """Raise `UnsupportedPipelineError` if the denoiser's sequence is divided as only ring attention can put up with.

    Args:
        pipeline: class name of the pipeline, for the message.
        name: attribute of the denoiser on it.
        denoiser: the model. Its parallelism may be enabled after SVG2, so this is asked at every forward.
    """
    context = context_of(getattr(denoiser, "_parallel_config", None))
    if context is not None and context.ring_degree > 1:
        raise UnsupportedPipelineError(
            f"SVG2 needs all tokens of a head in one process, and {pipeline}.{name} has context parallelism with "
            f"ring_degree={context.ring_degree}, where none has them. Enable parallelism with ulysses_degree="
            f"{context.ring_degree * context.ulysses_degree} and without ring_degree, or use a preset without svg2, "
            "e.g. 'dbcache-medium'; caches work with both."
        )


def in_exchange(
    local: Callable[[Tensor, Tensor, Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor, parallel_config: Any
) -> Tensor:
    """``local`` between the two exchanges of Ulysses: of the whole sequence, and of this rank's heads.

    Args:
        local: makes [B, S, h, D] of query, key and value of that shape.
        query, key, value: [B, this rank's part of S, H, D].
        parallel_config: the processor's; its ``ring_degree`` is 1.
    """

    def forward_op(_: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        return local(query, key, value)

    out: Tensor = _templated_context_parallel_attention(
        query, key, value, forward_op=forward_op, backward_op=None, _parallel_config=parallel_config
    )
    return out
