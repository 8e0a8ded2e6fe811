"""Copy keys and values into their micro-blocks, side by side.

A key is read again for every cluster of queries that keeps it, so one copy pays: its address then takes one short load
instead of two dependent ones, eight rows at a time lie together, and columns are filled up to a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .block_lists import MICRO, Cut, Partition

_ROWS = 64  # of a program


@triton.jit(do_not_specialize=["num_tokens", "num_clusters", "num_rows"])
def _gather_kernel(
    key,
    value,
    clusters,
    firsts,
    rows,
    key_b,
    key_s,
    key_h,
    key_d,
    value_b,
    value_s,
    value_h,
    value_d,
    num_heads,
    num_tokens,
    num_clusters,
    num_rows,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MICRO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_token = position < num_tokens
    token = tl.load(clusters.order + head * num_tokens + position, mask=is_token, other=0)
    cluster = tl.load(clusters.labels + head * num_tokens + token, mask=is_token, other=0)
    rank = position - tl.load(clusters.starts + head * num_clusters + cluster, mask=is_token, other=0)
    size = tl.load(clusters.sizes + head * num_clusters + cluster, mask=is_token, other=0)
    is_whole = rank < size // MICRO * MICRO
    firsts += head * 2 * num_clusters
    first = tl.load(firsts + tl.where(is_whole, cluster, num_clusters + cluster), mask=is_token, other=0)
    row = (first + tl.where(is_whole, rank // MICRO, 0)) * MICRO + rank % MICRO

    dims = tl.arange(0, BLOCK_D)
    is_read = is_token[:, None] & (dims < D)[None, :]
    is_written = is_token[:, None] & (dims < BLOCK_D)[None, :]
    target = rows + (head * num_rows + row)[:, None] * 2 * BLOCK_D + dims[None, :]
    item, token = head // num_heads, token.to(tl.int64)[:, None]
    key += item * key_b + (head % num_heads) * key_h
    value += item * value_b + (head % num_heads) * value_h
    tl.store(target, tl.load(key + token * key_s + dims[None, :] * key_d, mask=is_read, other=0.0), is_written)
    loaded = tl.load(value + token * value_s + dims[None, :] * value_d, mask=is_read, other=0.0)
    tl.store(target + BLOCK_D, loaded, is_written)


def gather(key: Tensor, value: Tensor, clusters: Partition, cut: Cut, block_dim: int) -> Tensor:
    """[B, H, M · MICRO, 2, block_dim], keys and values by micro-block; zero where no key is, and beyond column D.

    Args:
        key, value: [B, S, H, D], of any strides.
        clusters: of the keys, contiguous.
        cut: of these clusters, from `cut_keys`.
        block_dim: a power of two, at least D.
    """
    batch, num_tokens, heads, dim = key.shape
    num_rows = cut.owner.shape[-1] * MICRO
    rows = key.new_zeros(batch, heads, num_rows, 2, block_dim)
    _gather_kernel[(triton.cdiv(num_tokens, _ROWS), batch * heads)](
        key,
        value,
        clusters,
        cut.first,
        rows,
        *key.stride(),
        *value.stride(),
        heads,
        num_tokens,
        clusters.sizes.shape[-1],
        num_rows,
        D=dim,
        BLOCK_D=block_dim,
        MICRO=MICRO,
        BLOCK=_ROWS,
        num_warps=8,
    )
    return rows
