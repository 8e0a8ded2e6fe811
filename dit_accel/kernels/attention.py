"""Attention of clusters of queries to lists of micro-blocks of keys, and to stand-ins for what is not kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from .block_lists import MICRO, Partition, block_lists, cut_keys, cut_queries, filled, list_bytes
from .gather import gather
from .tiles import Shape, shared_memory, tile_shape

_MICRO = tl.constexpr(MICRO)
_LOG2_E = tl.constexpr(math.log2(math.e))  # powers of 2 are what the hardware has
_LIST_BYTES = 64 << 20  # at a time: lists grow with the square of the sequence, so long ones take the heads in groups


class StandIns(NamedTuple):
    """Of every cluster of keys, ``key``, ``half_variance``, ``value`` [B, H, C, D] and ``log_size`` [B, H, C].

    The logit for a query q is ``scale · q·key + scale² · Σ q²·half_variance + log_size``.
    """

    key: Tensor
    half_variance: Tensor
    value: Tensor
    log_size: Tensor


class _Rows(NamedTuple):
    """Queries or outputs, and the strides of their batch items, tokens, heads and channels."""

    data: Tensor
    of_item: int
    of_token: int
    of_head: int
    of_channel: int


class _Tiles(NamedTuple):
    """The clusters of queries in tiles; see `Partition` and `Cut`."""

    order: Tensor
    sizes: Tensor
    starts: Tensor
    owner: Tensor
    first: Tensor


class _Listed(NamedTuple):
    """Micro-blocks of keys, and those that each cluster of queries keeps; see `gather` and `block_lists`."""

    rows: Tensor
    lists: Tensor
    lengths: Tensor
    filled: Tensor


class _Dropped(NamedTuple):
    """Stand-ins in whole tiles, the clusters that need none, and how many there are to look at, [B, H]."""

    key_rows: Tensor
    half_variances: Tensor
    value_rows: Tensor
    log_sizes: Tensor
    kept: Tensor
    stop: Tensor


@triton.jit
def _softmax_step(state, scores, factor, value, shape):
    """Fold ``value`` rows with the logits scores · factor, in powers of 2, into a running softmax."""
    acc, row_max, row_sum = state
    new_max = tl.maximum(row_max, tl.max(scores, 1) * factor)
    # A row without any finite score so far: −inf − −inf would be NaN.
    shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores * factor - shift[:, None])
    rescale = tl.exp2(row_max - shift)
    acc = tl.dot(weights.to(value.dtype), value, acc * rescale[:, None], input_precision="ieee")
    return acc, new_max, row_sum * rescale + tl.sum(weights, 1)


@triton.jit
def _attend_listed(query, state, pointers, start, stop, factor, shape, IS_WHOLE: tl.constexpr):
    """Entries start … stop of a list. IS_WHOLE: they are whole tiles of whole micro-blocks, and need no mask."""
    rows, listed, filled = pointers
    lanes, dims = tl.arange(0, shape.BLOCK_N), tl.arange(0, shape.BLOCK_D)
    for first in range(start, stop, shape.BLOCK_N // _MICRO):
        entry = first + lanes // _MICRO
        if IS_WHOLE:
            block = tl.load(listed + entry).to(tl.int32)
        else:
            block = tl.load(listed + entry, mask=entry < stop, other=0).to(tl.int32)
        offsets = (block * _MICRO + lanes % _MICRO)[:, None] * (2 * shape.BLOCK_D) + dims[None, :]
        scores = tl.dot(query, tl.load(rows + offsets).T, input_precision="ieee")
        if not IS_WHOLE:
            is_key = lanes % _MICRO < tl.load(filled + block, mask=entry < stop, other=0)
            scores = tl.where(is_key[None, :], scores, float("-inf"))
        value = tl.load(rows + offsets + shape.BLOCK_D)
        state = _softmax_step(state, scores, factor, value, shape)
    return state


@triton.jit
def _attend_dropped(query, state, pointers, stop, num_keys, scale, shape):
    """Stand-ins of the clusters 0 … stop that are not kept. Their tables end with a whole tile."""
    keys, half_variances, values, log_sizes, kept = pointers
    lanes, dims = tl.arange(0, shape.BLOCK_C), tl.arange(0, shape.BLOCK_D)
    scaled = query.to(tl.float32) * scale
    squared = (scaled * scaled).to(query.dtype)
    for first in range(0, stop, shape.BLOCK_C):
        clusters = first + lanes
        is_kept = tl.load(kept + clusters, mask=clusters < num_keys, other=1) != 0
        bias = tl.where(is_kept, float("-inf"), tl.load(log_sizes + clusters))
        offsets = clusters[:, None] * shape.BLOCK_D + dims[None, :]
        scores = tl.dot(query, tl.load(keys + offsets).T, input_precision="ieee") * scale
        scores += tl.dot(squared, tl.load(half_variances + offsets).T, input_precision="ieee")
        state = _softmax_step(state, scores + bias[None, :], _LOG2_E, tl.load(values + offsets), shape)
    return state


@triton.jit
def _attend_rows(query, out, order, num_rows, listed, ranges, dropped, num_keys, scale, shape, BLOCK_M: tl.constexpr):
    """Queries order[0 … num_rows] of one cluster, at most BLOCK_M, from reading them to writing their output."""
    query_pointer, query_of_token, query_of_channel = query
    out_pointer, out_of_token = out
    num_whole, num_listed, num_dropped = ranges
    lanes, dims = tl.arange(0, BLOCK_M), tl.arange(0, shape.BLOCK_D)
    rows = tl.load(order + lanes, mask=lanes < num_rows, other=0).to(tl.int64)[:, None]
    is_there = (lanes < num_rows)[:, None] & (dims < shape.D)[None, :]
    offsets = rows * query_of_token + dims[None, :] * query_of_channel
    queries = tl.load(query_pointer + offsets, mask=is_there, other=0.0)

    nothing = tl.full([BLOCK_M], float("-inf"), tl.float32)
    state = tl.zeros([BLOCK_M, shape.BLOCK_D], tl.float32), nothing, tl.zeros([BLOCK_M], tl.float32)
    per_tile = shape.BLOCK_N // _MICRO
    first_masked = num_whole // per_tile * per_tile
    # Stand-ins come first: after them queries need not stay in registers.
    if dropped is not None:
        state = _attend_dropped(queries, state, dropped, num_dropped, num_keys, scale, shape)
    state = _attend_listed(queries, state, listed, 0, first_masked, scale * _LOG2_E, shape, True)
    state = _attend_listed(queries, state, listed, first_masked, num_listed, scale * _LOG2_E, shape, False)
    acc, _, row_sum = state
    # A query that attends to nothing has the sum 0, and gives 0.
    acc = acc / tl.where(row_sum > 0, row_sum, 1.0)[:, None]
    target = out_pointer + rows * out_of_token + dims[None, :]
    tl.store(target, acc.to(out_pointer.dtype.element_ty), mask=is_there)


@triton.jit
def _dropped_of(dropped, head, row, num_keys, num_stand_ins, shape):
    """Pointers to the stand-ins of a head, and to what a cluster of queries keeps."""
    first = head * num_stand_ins
    return (
        dropped.key_rows + first * shape.BLOCK_D,
        dropped.half_variances + first * shape.BLOCK_D,
        dropped.value_rows + first * shape.BLOCK_D,
        dropped.log_sizes + first,
        dropped.kept + row * num_keys,
    )


@triton.jit(do_not_specialize=["num_heads", "num_tokens", "num_queries", "num_keys", "num_blocks", "num_stand_ins"])
def _attention_kernel(
    query,
    out,
    tiles,
    listed,
    dropped,
    num_heads,
    num_tokens,
    num_queries,
    num_keys,
    num_blocks,
    num_stand_ins,
    scale,
    shape,
):
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cluster = tl.load(tiles.owner + head * tl.num_programs(0) + tile)
    if cluster >= num_queries:
        return
    row = head * num_queries + cluster
    done = (tile - tl.load(tiles.first + row)) * shape.BLOCK_M  # queries of the cluster that other programs see to
    num_rows = tl.load(tiles.sizes + row) - done
    order = tiles.order + head * num_tokens + tl.load(tiles.starts + row) + done
    item, of_item = head // num_heads, head % num_heads
    queries = query.data + item * query.of_item + of_item * query.of_head, query.of_token, query.of_channel
    outputs = out.data + item * out.of_item + of_item * out.of_head, out.of_token

    rows = listed.rows + head * num_blocks * _MICRO * 2 * shape.BLOCK_D
    blocks = rows, listed.lists + row * num_blocks, listed.filled + head * num_blocks
    stand_ins, num_dropped = None, 0
    if dropped is not None:
        stand_ins = _dropped_of(dropped, head, row, num_keys, num_stand_ins, shape)
        num_dropped = tl.load(dropped.stop + head)
    ranges = tl.load(listed.lengths + 2 * row), tl.load(listed.lengths + 2 * row + 1), num_dropped
    # Clusters rarely end with a tile: the last one costs half where half of it is enough.
    half: tl.constexpr = shape.BLOCK_M // 2
    if num_rows > half:
        _attend_rows(
            queries, outputs, order, num_rows, blocks, ranges, stand_ins, num_keys, scale, shape, shape.BLOCK_M
        )
    else:
        _attend_rows(queries, outputs, order, num_rows, blocks, ranges, stand_ins, num_keys, scale, shape, half)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Partition,
    keys: Partition,
    kept: Tensor,
    stand_ins: StandIns | None,
    scale: float,
) -> Tensor:
    """[B, S, H, D] contiguous in the dtype of ``query``; a query that keeps nothing gives 0.

    Products are taken in the dtype of ``query``; logits, softmax and sums are float32.

    Args:
        query, key, value: [B, S, H, D], of any strides and one dtype.
        queries, keys: their clusters.
        kept: [B, H, CQ, CK] bool, the clusters of keys that each cluster of queries attends to.
        stand_ins: for the clusters that are not kept, or None.
        scale: factor of the dot product, above 0.
    """
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    batch, num_tokens, num_heads, _ = query.shape
    at_a_time = max(1, _LIST_BYTES // (batch * list_bytes(num_tokens, *kept.shape[2:])))
    for first in range(0, num_heads, at_a_time):
        part = slice(first, first + at_a_time)
        _attend_heads(part, query, key, value, out, queries, keys, kept, stand_ins, scale)
    return out


def _attend_heads(
    part: slice,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    queries: Partition,
    keys: Partition,
    kept: Tensor,
    stand_ins: StandIns | None,
    scale: float,
) -> None:
    query, key, value, out = (x[:, :, part] for x in (query, key, value, out))
    queries, keys, kept = queries.of_heads(part), keys.of_heads(part), kept[:, part].contiguous()
    batch, num_tokens, heads, dim = query.shape
    shape, options = tile_shape(dim, query.dtype, shared_memory(query.device))
    tiles = cut_queries(queries.sizes, num_tokens, shape.BLOCK_M.value)
    micro = cut_keys(keys.sizes, num_tokens)
    lists, lengths = block_lists(micro, kept)
    gathered = gather(key, value, keys, micro, shape.BLOCK_D.value)
    dropped = None
    if stand_ins is not None:
        dropped = _in_tiles(StandIns(*(x[:, part] for x in stand_ins)), kept, query.dtype, shape)
    _attention_kernel[(tiles.owner.shape[-1], batch * heads)](
        _Rows(query, *query.stride()),
        _Rows(out, *out.stride()),
        _Tiles(queries.order, queries.sizes, queries.starts, *tiles),
        _Listed(gathered, lists, lengths, filled(keys.sizes, micro)),
        dropped,
        heads,
        num_tokens,
        kept.shape[2],
        kept.shape[3],
        lists.shape[-1],
        0 if dropped is None else dropped.log_sizes.shape[-1],
        scale,
        shape,
        **options,
    )


def _in_tiles(stand_ins: StandIns, kept: Tensor, dtype: torch.dtype, shape: Shape) -> _Dropped:
    """As the kernel reads them: in the dtype of the queries, padded to whole tiles. Sizes stay float32: in bfloat16
    their logarithm would be off by more than all the rest."""
    rows = -stand_ins.log_size.shape[-1] % shape.BLOCK_C.value
    columns = shape.BLOCK_D.value - shape.D.value
    keys, half_variances, values = (pad(x.to(dtype), (0, columns, 0, rows)) for x in stand_ins[:3])
    log_sizes = pad(stand_ins.log_size, (0, rows), value=-torch.inf)
    # Heads that are better off without stand-ins have none, and skip them all.
    stop = (log_sizes > -torch.inf).any(-1).int() * log_sizes.shape[-1]
    return _Dropped(keys, half_variances, values, log_sizes, kept, stop)
