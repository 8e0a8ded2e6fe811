"""Arithmetic on what flows through the blocks; None is a stream that a call does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._diffusers import eager
from .state import Form, Streams


# A block compiled with fullgraph=True refuses a call that compiles nothing; each of these is one small graph for all.
def unchanged(stream: Tensor | None) -> Tensor | None:
    """A view of the stream."""
    return None if stream is None else stream.view_as(stream)


def copied(entry: Tensor | None) -> Tensor | None:
    """Not the entry itself: a model may add in place between blocks, and the entry is needed at the exit."""
    return None if entry is None else entry.clone()


def added(entry: Tensor | None, value: Tensor | None) -> Tensor | None:
    """The exit: entry + residual, or the value itself of a stream that leaves in another shape."""
    if entry is None or value is None:
        return entry
    return entry + value if entry.shape == value.shape else value.clone()


@eager
def joined(streams: Streams) -> Tensor | Streams | None:
    """A block's return value: one stream bare, several as a tuple."""
    return streams[0] if len(streams) == 1 else streams


def difference(exit_: Tensor | None, entry: Tensor | None, buffer: Tensor | None) -> Tensor | None:
    """What to keep of a stream: exit − entry, or the exit itself of a stream that leaves in another shape (Motif)."""
    if exit_ is None or entry is None:
        return None
    if exit_.shape != entry.shape:
        return exit_.clone() if buffer is None else buffer.copy_(exit_)
    return exit_ - entry if buffer is None else torch.sub(exit_, entry, out=buffer)


def weighted(tensors: tuple[Tensor | None, ...], weights: Sequence[float]) -> Tensor | None:
    """The weighted sum of one stream's values; None if there are none."""
    total = None
    for tensor, weight in zip(tensors, weights, strict=True):
        if tensor is not None:
            total = tensor * weight if total is None else total.add_(tensor, alpha=weight)
    return total


def form_of(streams: Streams) -> Form:
    """What has to agree for a kept value to fit: shape, dtype and device of every stream."""
    return tuple(None if t is None else (t.shape, t.dtype, t.device) for t in streams)
