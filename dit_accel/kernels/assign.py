"""The nearest centroid of every token, without a matrix of distances in memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tokens and centroids of a tile, and how many tiles of centroids are on their way: the fastest of eleven on an H200.
# Exact float32 products take more registers.
_TILE, _TILE_FLOAT32 = (128, 32, 4), (64, 32, 3)


@triton.jit(do_not_specialize=["num_tokens", "num_centroids"])
def _assign_kernel(
    tokens,
    centroids,
    penalties,
    labels,
    stride_b,
    stride_s,
    stride_h,
    stride_d,
    num_heads,
    num_tokens,
    num_centroids,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    lanes, dims = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_D)
    is_row, is_dim = rows < num_tokens, dims < D
    tokens += (head // num_heads) * stride_b + (head % num_heads) * stride_h
    tokens += rows.to(tl.int64)[:, None] * stride_s + dims[None, :] * stride_d
    token = tl.load(tokens, mask=is_row[:, None] & is_dim[None, :], other=0.0)
    centroids += head * num_centroids * D
    penalties += head * num_centroids

    # The best of every lane, and only at the end the best of all: no reduction across threads in the loop.
    best = tl.full([BLOCK_S, BLOCK_C], float("-inf"), tl.float32)
    where = tl.zeros([BLOCK_S, BLOCK_C], tl.int32)
    for first in range(0, num_centroids, BLOCK_C):
        is_centroid = first + lanes < num_centroids
        offsets = (first + lanes)[:, None] * D + dims[None, :]
        centroid = tl.load(centroids + offsets, mask=is_centroid[:, None] & is_dim[None, :], other=0.0)
        penalty = tl.load(penalties + first + lanes, mask=is_centroid, other=float("inf"))
        score = tl.dot(token, centroid.T, input_precision="ieee") - penalty[None, :]
        is_better = score > best
        best = tl.where(is_better, score, best)
        where = tl.where(is_better, first, where)

    # The lowest of equals. No score of a token that is NaN is above −inf: it gets label 0, never one out of range.
    is_best = best == tl.max(best, 1)[:, None]
    label = tl.min(tl.where(is_best, where + lanes[None, :], num_centroids), 1)
    tl.store(labels + head * num_tokens + rows, label, mask=is_row)


def assign(tokens: Tensor, centroids: Tensor) -> Tensor:
    """[B, H, S] int32, the nearest of ``centroids`` for each token, the lowest of equals.

    Products are taken in the dtype of ``tokens`` and summed in float32.

    Args:
        tokens: [B, S, H, D], of any strides.
        centroids: [B, H, C, D] float32.
    """
    batch, num_tokens, heads, dim = tokens.shape
    # argmin |x − c|² = argmax x·c − |c|²/2. The norm is that of the centroid as rounded for the product: near a token,
    # where it matters, both are then wrong by the same amount.
    rounded = centroids.to(tokens.dtype).contiguous()
    penalties = rounded.float().square().sum(-1) / 2
    labels = torch.empty(batch, heads, num_tokens, dtype=torch.int32, device=tokens.device)
    block_s, block_c, num_stages = _TILE_FLOAT32 if tokens.dtype == torch.float32 else _TILE
    _assign_kernel[(triton.cdiv(num_tokens, block_s), batch * heads)](
        tokens,
        rounded,
        penalties,
        labels,
        *tokens.stride(),
        heads,
        num_tokens,
        centroids.shape[2],
        D=dim,
        BLOCK_D=max(16, triton.next_power_of_2(dim)),
        BLOCK_S=block_s,
        BLOCK_C=block_c,
        num_warps=8,
        num_stages=num_stages,
    )
    return labels
