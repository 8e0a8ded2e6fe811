"""The backend ``"torch"``: a loop over clusters of queries, each against the keys it kept, gathered side by side.

On a CPU it is the fast one. On a GPU it is right, and reads the sizes of clusters back to the host at every call.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .backends import MinTokens, TorchOps
from .clusters import PseudoTokens, Selection

_TINY, _LOWEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).min
# Queries and keys come in multiples of these: a CPU compiles its products anew for every shape, which takes longer
# than the product.
_ROWS, _KEYS = 32, 64


class _Part(NamedTuple):
    """What queries find at some of the keys: output [Q, D], and log of the sum of exponentials [Q, 1] float32."""

    out: Tensor
    mass: Tensor


class _StandIns(NamedTuple):
    """The pseudo-tokens of one head.

    Args:
        keys: [2 D, C], mean and half of the variance: for queries beside their squares.
        values: [C, D].
        log_size: [C] float32.
    """

    keys: Tensor
    values: Tensor
    log_size: Tensor


class _Head(NamedTuple):
    """One head of one batch item, tokens in cluster order.

    Args:
        queries: [S + `_ROWS`, D], of which the last are zero.
        pairs: [S + 1, 2 D], keys beside values, of which the last are zero.
        bias: [S + `_KEYS`], 0 for tokens and −inf for what only fills a block up.
        key_labels: [S] int32.
        kept: [CQ, CK] bool.
        stand_ins: None: nothing stands for dropped clusters.
    """

    queries: Tensor
    pairs: Tensor
    bias: Tensor
    key_labels: Tensor
    kept: Tensor
    stand_ins: _StandIns | None


class TorchBackend(TorchOps):
    """See `Backend`."""

    # On a processor with matrix units for bfloat16, in which dense attention is hard to beat.
    min_tokens = MinTokens(4096, 32_768)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """See `Backend.attend`."""
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        sizes = selection.query.sizes.tolist()
        for item in range(query.shape[0]):
            for head in range(query.shape[2]):
                at = item, head
                tokens = query[item, :, head], key[item, :, head], value[item, :, head]
                found = _attend_head(_head(*tokens, selection, at), sizes[item][head], scale)
                out[item, :, head].index_copy_(0, selection.query.order[at].long(), found)
        return out


def _head(query: Tensor, key: Tensor, value: Tensor, selection: Selection, at: tuple[int, int]) -> _Head:
    """Of the tokens [S, D] of one head."""
    num_tokens = len(key)
    bias = query.new_zeros(num_tokens + _KEYS)
    bias[num_tokens:] = -torch.inf
    key_order = selection.key.order[at]
    return _Head(
        _in_order(query, selection.query.order[at], _ROWS),
        _in_order(torch.cat([key, value], -1), key_order, 1),
        bias,
        selection.key.labels[at].index_select(0, key_order),
        selection.kept[at],
        None if selection.pseudo is None else _stand_ins(selection.pseudo, at, query.dtype),
    )


def _in_order(tokens: Tensor, order: Tensor, more: int) -> Tensor:
    """[S + more, D], tokens [S, D] in cluster order, and so many zeros."""
    ordered = tokens.new_zeros(len(order) + more, tokens.shape[-1])
    torch.index_select(tokens, 0, order, out=ordered[: len(order)])
    return ordered


def _stand_ins(pseudo: PseudoTokens, at: tuple[int, int], dtype: torch.dtype) -> _StandIns:
    keys = torch.cat([pseudo.key[at], pseudo.half_variance[at]], -1).to(dtype)
    return _StandIns(keys.T.contiguous(), pseudo.value[at].to(dtype), pseudo.log_size[at])


def _attend_head(head: _Head, sizes: list[int], scale: float) -> Tensor:
    """[S, D] in cluster order."""
    out = head.queries.new_empty(len(head.key_labels), head.queries.shape[-1])
    start = 0
    for kept, size in zip(head.kept, sizes, strict=True):
        if size:
            queries = head.queries[start : start + _up(size, _ROWS)]
            part = _at_tokens(queries, head, kept, scale)
            if head.stand_ins is not None:
                part = _joined(part, _at_stand_ins(queries * scale, head.stand_ins, kept))
            out[start : start + size] = part.out[:size]
        start += size
    return out


def _at_tokens(queries: Tensor, head: _Head, kept: Tensor, scale: float) -> _Part:
    """What queries of one cluster find at the keys that it kept."""
    tokens = kept.index_select(0, head.key_labels).nonzero().squeeze(1)
    if len(tokens) == 0:
        return _Part(torch.zeros_like(queries), queries.new_full((len(queries), 1), -torch.inf, dtype=torch.float32))
    num_tokens = len(head.key_labels)
    more = _up(len(tokens), _KEYS) - len(tokens)
    keys, values = head.pairs.index_select(0, pad(tokens, (0, more), value=num_tokens)).chunk(2, -1)
    bias = head.bias[num_tokens - len(tokens) : num_tokens + more].expand(1, 1, len(queries), -1)
    attention = _flash_attention if queries.device.type == "cpu" else _plain_attention
    return attention(queries, keys, values, bias, scale)


def _flash_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> _Part:
    """`_plain_attention` by what scaled_dot_product_attention runs on a CPU, which keeps the sums to itself."""
    out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries[None, None], keys[None, None], values[None, None], attn_mask=bias, scale=scale
    )
    return _Part(out[0, 0], mass.reshape(-1, 1))


def _plain_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> _Part:
    """Attention of [Q, D] to [T, D], with ``bias`` [1, 1, Q, T]."""
    scores = (queries @ keys.T).float() * scale + bias[0, 0]
    mass = scores.logsumexp(-1, keepdim=True)
    return _Part((scores - mass).exp().to(values.dtype) @ values, mass)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _at_stand_ins(queries: Tensor, stand_ins: _StandIns, kept: Tensor) -> _Part:
    """What queries (scaled) of one cluster find at the pseudo-tokens of the clusters that it dropped."""
    logits = (torch.cat([queries, queries.square()], -1) @ stand_ins.keys).float()
    # In float32: in bfloat16 the logarithm of the size would be off by more than all the rest.
    logits += stand_ins.log_size.masked_fill(kept, -torch.inf)
    largest = logits.amax(-1, keepdim=True).clamp(min=_LOWEST)  # −inf: none is left
    weights = logits.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    out = (weights.to(queries.dtype) @ stand_ins.values) / total.clamp(min=_TINY)
    return _Part(out, largest + total.log())


def _joined(one: _Part, other: _Part) -> _Part:
    """What queries find at the keys of both."""
    mass = torch.logaddexp(one.mass, other.mass)
    share = (other.mass - mass).exp().nan_to_num_(0.0)  # nan: there is nothing on either side
    return _Part(torch.lerp(one.out.float(), other.out.float(), share).to(one.out.dtype), mass)


def load(device: torch.device) -> TorchBackend:  # the same everywhere
    """The backend."""
    return TorchBackend()
