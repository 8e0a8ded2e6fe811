"""Mean and variance of every cluster, each token read once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .block_lists import Partition

_ROWS, _NUM_WARPS = 16, 2  # that a program reads at a time; few, as clusters are small


@triton.jit(do_not_specialize=["num_heads", "num_tokens", "num_clusters"])
def _moments_kernel(
    tokens,
    clusters,
    means,
    variances,
    stride_b,
    stride_s,
    stride_h,
    stride_d,
    num_heads,
    num_tokens,
    num_clusters,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    cluster, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = head * num_clusters + cluster
    size = tl.load(clusters.sizes + row)
    order = clusters.order + head * num_tokens + tl.load(clusters.starts + row)
    lanes, dims = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    tokens += (head // num_heads) * stride_b + (head % num_heads) * stride_h + dims[None, :] * stride_d
    # Sums of every lane, and only at the end those of all: no reduction across threads in the loop.
    sums = tl.zeros([ROWS, BLOCK_D], tl.float32)
    squares = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in range(0, size, ROWS):
        is_member = first + lanes < size
        token = tl.load(order + first + lanes, mask=is_member, other=0).to(tl.int64)
        is_read = is_member[:, None] & (dims < D)[None, :]
        value = tl.load(tokens + token[:, None] * stride_s, mask=is_read, other=0.0).to(tl.float32)
        sums += value
        if variances is not None:
            squares += value * value
    count = tl.maximum(size, 1).to(tl.float32)
    mean = tl.sum(sums, 0) / count
    tl.store(means + row * D + dims, mean, mask=dims < D)
    if variances is not None:
        variance = tl.sum(squares, 0) / count - mean * mean
        variance = tl.where(variance < 0, 0.0, variance)  # a GPU's maximum of NaN and 0 is 0
        tl.store(variances + row * D + dims, variance, mask=dims < D)


def moments(tokens: Tensor, clusters: Partition, *, with_variance: bool = True) -> tuple[Tensor, Tensor | None]:
    """Mean and variance of each cluster, [B, H, C, D] float32 both; zero where it is empty.

    Args:
        tokens: [B, S, H, D], of any strides.
        clusters: of the same tokens, contiguous.
        with_variance: None in its place if not.
    """
    batch, num_tokens, heads, dim = tokens.shape
    num_clusters = clusters.sizes.shape[-1]
    means = torch.empty(batch, heads, num_clusters, dim, dtype=torch.float32, device=tokens.device)
    variances = torch.empty_like(means) if with_variance else None
    _moments_kernel[(num_clusters, batch * heads)](
        tokens,
        clusters,
        means,
        variances,
        *tokens.stride(),
        heads,
        num_tokens,
        num_clusters,
        D=dim,
        BLOCK_D=max(16, triton.next_power_of_2(dim)),
        ROWS=_ROWS,
        num_warps=_NUM_WARPS,
    )
    return means, variances
