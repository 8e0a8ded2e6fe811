"""Which blocks of keys each cluster of queries attends to, as lists of block numbers.

The keys of a cluster are cut in micro-blocks. Whole ones of all clusters are numbered first, then what is left of each
cluster: a list in the order of the numbers begins with blocks that need no mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MICRO = 8
"""Keys of a micro-block. Half of one is lost a cluster on average: at 64 keys a cluster, 6 % with 8 and 12 % with 16;
lists take twice the memory."""
_BLOCKS = 1024  # of keys, that a program looks at in one go


class Partition(NamedTuple):
    """Clusters of tokens.

    Args:
        labels: [B, H, S] int32, the cluster of each token.
        order: [B, H, S] int32, token indices sorted by cluster.
        sizes, starts: [B, H, C] int32, tokens of each cluster, and where they begin in ``order``.
    """

    labels: Tensor
    order: Tensor
    sizes: Tensor
    starts: Tensor

    def of_heads(self, part: slice) -> Partition:
        """That of some heads, contiguous."""
        return Partition(*(x[:, part].contiguous() for x in self))


class Cut(NamedTuple):
    """Clusters cut in blocks, which are numbered one after the other.

    Args:
        owner: [B, H, M] int32, which of C clusters or kinds a block is of; C past the end. M is an upper bound.
        first: [B, H, C] int32, number of the first block of each.
    """

    owner: Tensor
    first: Tensor


def cut_queries(sizes: Tensor, num_tokens: int, block: int) -> Cut:
    """Clusters of ``sizes`` [B, H, C] int32 in blocks of ``block`` queries, the last one of each perhaps shorter."""
    limit = (num_tokens + (block - 1) * sizes.shape[-1]) // block
    return _cut((sizes + block - 1) // block, limit)


def cut_keys(sizes: Tensor, num_tokens: int) -> Cut:
    """Clusters of ``sizes`` [B, H, C] int32 in micro-blocks of 2C kinds: the whole ones of each, then the rests."""
    counts = torch.cat([sizes // MICRO, (sizes % MICRO > 0).to(torch.int32)], dim=-1)
    return _cut(counts, _max_micro_blocks(num_tokens, sizes.shape[-1]))


def _max_micro_blocks(num_tokens: int, num_clusters: int) -> int:
    return (num_tokens + (MICRO - 1) * num_clusters) // MICRO


def _number_dtype(num_blocks: int) -> torch.dtype:
    return torch.int16 if num_blocks <= 1 << 15 else torch.int32


def list_bytes(num_tokens: int, num_queries: int, num_keys: int) -> int:
    """What the lists of one head take, for so many tokens and clusters of queries and of keys."""
    num_blocks = _max_micro_blocks(num_tokens, num_keys)
    return num_queries * num_blocks * _number_dtype(num_blocks).itemsize


def _cut(counts: Tensor, limit: int) -> Cut:
    ends = counts.cumsum(-1, dtype=torch.int32)
    numbers = torch.arange(limit, dtype=torch.int32, device=counts.device).repeat(*counts.shape[:-1], 1)
    return Cut(torch.searchsorted(ends, numbers, right=True, out_int32=True), ends - counts)


def filled(sizes: Tensor, keys: Cut) -> Tensor:
    """[B, H, M] int8, keys of each micro-block, from the ``sizes`` [B, H, C] that were cut."""
    by_kind = torch.cat([torch.full_like(sizes, MICRO), sizes % MICRO, torch.zeros_like(sizes[..., :1])], dim=-1)
    return by_kind.to(torch.int8).gather(-1, keys.owner.long())


@triton.jit(do_not_specialize=["num_blocks", "num_queries", "num_keys"])
def _list_kernel(owner, kept, lists, lengths, num_blocks, num_queries, num_keys, BLOCK: tl.constexpr):
    query, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = head * num_queries + query
    owner += head * num_blocks
    kept += row * num_keys
    lists += row * num_blocks
    length = 0
    num_whole = 0
    for first in range(0, num_blocks, BLOCK):
        blocks = first + tl.arange(0, BLOCK)
        kind = tl.load(owner + blocks, mask=blocks < num_blocks, other=2 * num_keys)
        is_whole = kind < num_keys
        cluster = tl.where(is_whole, kind, kind - num_keys)
        is_kept = tl.load(kept + cluster, mask=cluster < num_keys, other=0).to(tl.int32)
        places = length + tl.cumsum(is_kept, 0) - 1
        tl.store(lists + places, blocks.to(lists.dtype.element_ty), mask=is_kept > 0)
        length += tl.sum(is_kept, 0)
        num_whole += tl.sum(tl.where(is_whole, is_kept, 0), 0)
    tl.store(lengths + 2 * row, num_whole)
    tl.store(lengths + 2 * row + 1, length)


def block_lists(keys: Cut, kept: Tensor) -> tuple[Tensor, Tensor]:
    """For each cluster of queries, the micro-blocks of keys that it keeps.

    Returns:
        [B, H, CQ, M] int16 (int32 if there are more than 32768 micro-blocks), block numbers in ascending order, and
        [B, H, CQ, 2] int32, how many of them are whole, and how many there are; the rest of a list is undefined.

    Args:
        keys: from `cut_keys`.
        kept: [B, H, CQ, CK] bool, contiguous.
    """
    batch, heads, num_queries, num_keys = kept.shape
    num_blocks = keys.owner.shape[-1]
    dtype = _number_dtype(num_blocks)
    lists = torch.empty(batch, heads, num_queries, num_blocks, dtype=dtype, device=kept.device)
    lengths = torch.empty(batch, heads, num_queries, 2, dtype=torch.int32, device=kept.device)
    _list_kernel[(num_queries, batch * heads)](
        keys.owner, kept, lists, lengths, num_blocks, num_queries, num_keys, BLOCK=_BLOCKS
    )
    return lists, lengths
