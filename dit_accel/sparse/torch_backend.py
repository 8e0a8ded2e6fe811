"""The backend ``"torch"``: a loop over clusters of queries, each against the keys it kept, gathered side by side.

On a CPU it is the fast one. On a GPU it is right, and reads the sizes of clusters back to the host at every call.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .backends import TorchOps
from .clusters import PseudoTokens, Selection

_TINY = torch.finfo(torch.float32).tiny
_ROWS = 256  # queries at a time: their scores stay in the cache between product, softmax and product


class _Head(NamedTuple):
    """One head of one batch item, in cluster order; queries are scaled. Of pseudo-tokens, see `_stand_in`."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    pseudo_mass: Tensor | None
    pseudo_out: Tensor | None


class TorchBackend(TorchOps):
    """See `Backend`."""

    min_tokens = 2048

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """See `Backend.attend`."""
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        sizes = selection.query.sizes.tolist()
        for item in range(query.shape[0]):
            for head in range(query.shape[2]):
                order = selection.query.order[item, head]
                found = self._head(query, key, value, selection, (item, head), scale)
                sorted_out = _attend_head(found, selection, (item, head), sizes[item][head])
                out[item, :, head].index_copy_(0, order.long(), sorted_out)
        return out

    @staticmethod
    def _head(
        query: Tensor, key: Tensor, value: Tensor, selection: Selection, at: tuple[int, int], scale: float
    ) -> _Head:
        """Queries (scaled), keys and values of one head in cluster order."""
        item, head = at
        queries = query[item, :, head].index_select(0, selection.query.order[at]) * scale
        keys, values = (_in_order(x[item, :, head], selection.key.order[at]) for x in (key, value))
        if selection.pseudo is None:
            return _Head(queries, keys, values, None, None)
        return _Head(queries, keys, values, *_stand_in(queries, selection, selection.pseudo, at))


def _in_order(tokens: Tensor, order: Tensor) -> Tensor:
    """[S + 1, D], tokens [S, D] in cluster order, and a zero that stands for all pseudo-tokens together."""
    ordered = tokens.new_zeros(len(order) + 1, tokens.shape[-1])
    torch.index_select(tokens, 0, order, out=ordered[:-1])
    return ordered


def _stand_in(
    queries: Tensor, selection: Selection, pseudo: PseudoTokens, at: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What a query finds at the pseudo-tokens of dropped clusters: log of their mass [S, 1] float32, output [S, D]."""
    both = torch.cat([pseudo.key[at], pseudo.half_variance[at]], -1).to(queries.dtype)
    logits = (torch.cat([queries, queries.square()], -1) @ both.T).float()
    # The size is added in float32: in bfloat16 its logarithm would be off by more than all the rest.
    bias = pseudo.log_size[at].expand_as(selection.kept[at]).masked_fill(selection.kept[at], -torch.inf)
    logits += bias.repeat_interleave(selection.query.sizes[at], 0)
    largest = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)  # −inf: none is left
    weights = logits.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    out = (weights.to(queries.dtype) @ pseudo.value[at].to(queries.dtype)) / total.clamp(min=_TINY)
    return largest + total.log(), out.to(queries.dtype)


def _attend_head(head: _Head, selection: Selection, at: tuple[int, int], sizes: list[int]) -> Tensor:
    """[S, D] in cluster order."""
    key_labels = selection.key.labels[at].index_select(0, selection.key.order[at]).long()
    outputs: list[Tensor] = []
    shares: list[Tensor] = []
    start = 0
    for kept, size in zip(selection.kept[at], sizes, strict=True):
        if size == 0:
            continue
        rows, tokens = slice(start, start + size), kept.index_select(0, key_labels).nonzero().squeeze(1)
        start += size
        if head.pseudo_mass is None:
            keys, values = head.keys.index_select(0, tokens), head.values.index_select(0, tokens)
            outputs.append(_attend_tokens(head.queries[rows], keys, values))
            continue
        if len(tokens) == 0:
            outputs.append(torch.zeros_like(head.queries[rows]))
            shares.append(torch.ones_like(head.queries[rows, :1]))
            continue
        tokens = pad(tokens, (0, 1), value=len(head.keys) - 1)
        keys, values = head.keys.index_select(0, tokens), head.values.index_select(0, tokens)
        for queries, mass in zip(_parts(head.queries[rows]), _parts(head.pseudo_mass[rows]), strict=True):
            # All pseudo-tokens together are one more column of the softmax.
            scores = queries @ keys.T
            scores[:, -1:] = mass
            weights = scores.softmax(-1)
            shares.append(weights[:, -1:])
            outputs.append(weights @ values)
    if head.pseudo_mass is None or head.pseudo_out is None:
        return torch.cat(outputs)
    return _joined(torch.cat(outputs), torch.cat(shares), head.pseudo_mass, head.pseudo_out)


def _attend_tokens(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Plain attention; zero if there are no keys."""
    if queries.dtype == torch.float32:
        return scaled_dot_product_attention(queries[None, None], keys[None, None], values[None, None], scale=1.0)[0, 0]
    # In half precision a CPU multiplies far faster than its scaled_dot_product_attention does.
    return torch.cat([(part @ keys.T).softmax(-1) @ values for part in _parts(queries)])


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """``rows`` in equal parts of at most `_ROWS`: a product with a few rows takes about as long as one with many."""
    return rows.chunk(-(-len(rows) // _ROWS))


def _joined(out: Tensor, share: Tensor, mass: Tensor, pseudo_out: Tensor) -> Tensor:
    """Outputs of tokens and of pseudo-tokens, which have ``share`` [S, 1] of the softmax, as one.

    What rounding took from ``mass`` before the softmax is made good here.
    """
    lost = (mass - mass.to(out.dtype).float()).nan_to_num_(0.0)  # nan: −inf less −inf
    share = share.float()
    joined = torch.addcmul(out.float(), pseudo_out.float(), share * lost.exp())
    return (joined / (1 + share * lost.expm1())).to(out.dtype)


def load(device: torch.device) -> TorchBackend:  # the same everywhere
    """The backend."""
    return TorchBackend()
