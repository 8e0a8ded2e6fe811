"""Sort tokens by label: count the labels of every chunk, add up, put each token behind those before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK, _TILE = 256, 32  # tokens a program; how many of them it compares with at a time


@triton.jit(do_not_specialize=["num_tokens", "num_clusters"])
def _count_kernel(labels, counts, num_tokens, num_clusters, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr):
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    is_token = tokens < num_tokens
    label = tl.load(labels + head * num_tokens + tokens, mask=is_token, other=0)
    bins = tl.arange(0, BLOCK_C)
    counts += (head * tl.num_programs(0) + chunk) * num_clusters
    tl.store(counts + bins, tl.histogram(label, BLOCK_C, mask=is_token), mask=bins < num_clusters)


@triton.jit(do_not_specialize=["num_tokens", "num_clusters"])
def _place_kernel(labels, firsts, order, num_tokens, num_clusters, CHUNK: tl.constexpr, TILE: tl.constexpr):
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    lanes = tl.arange(0, CHUNK)
    tokens = chunk * CHUNK + lanes
    is_token = tokens < num_tokens
    labels += head * num_tokens
    label = tl.load(labels + tokens, mask=is_token, other=-1)
    # How many tokens of the chunk have the same label and come before.
    rank = tl.zeros([CHUNK], tl.int32)
    for tile in range(0, CHUNK, TILE):
        others = tile + tl.arange(0, TILE)
        other = tl.load(labels + chunk * CHUNK + others, mask=chunk * CHUNK + others < num_tokens, other=-1)
        is_before = (label[:, None] == other[None, :]) & (others[None, :] < lanes[:, None])
        rank += tl.sum(is_before.to(tl.int32), 1)
    firsts += (head * tl.num_programs(0) + chunk) * num_clusters
    position = tl.load(firsts + label, mask=is_token, other=0) + rank
    tl.store(order + head * num_tokens + position, tokens, mask=is_token)


def counting_sort(labels: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Token indices [B, H, S] sorted by label, in their own order within one, and sizes [B, H, C], int32 both.

    Args:
        labels: [B, H, S] int32, in 0 … num_clusters − 1.
        num_clusters: C.
    """
    labels = labels.contiguous()
    batch, heads, num_tokens = labels.shape
    num_chunks = triton.cdiv(num_tokens, _CHUNK)
    counts = labels.new_empty(batch, heads, num_chunks, num_clusters)
    order = torch.empty_like(labels)
    grid = (num_chunks, batch * heads)
    _count_kernel[grid](
        labels, counts, num_tokens, num_clusters, CHUNK=_CHUNK, BLOCK_C=triton.next_power_of_2(num_clusters)
    )
    sizes = counts.sum(2, dtype=torch.int32)
    firsts = counts.cumsum(2, dtype=torch.int32) - counts + (sizes.cumsum(-1, dtype=torch.int32) - sizes)[:, :, None]
    _place_kernel[grid](labels, firsts, order, num_tokens, num_clusters, CHUNK=_CHUNK, TILE=_TILE)
    return order, sizes
