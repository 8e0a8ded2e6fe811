"""The backend ``"torch"``: a loop over clusters of queries, each against the keys it kept, gathered side by side.

On a CPU it is the fast one. On a GPU it is right, and reads the sizes of clusters back to the host at every call.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .backends import TorchOps
from .clusters import Selection

_ROWS = 256  # queries at a time: their scores stay in the cache between product, softmax and product


class _Head(NamedTuple):
    """One head of one batch item, in cluster order; queries are scaled. With pseudo-tokens, keys end in a zero row."""

    queries: Tensor
    keys: Tensor  # [S (+ 1), D], as the values
    values: Tensor
    pseudo_logits: Tensor | None  # [S, CK] float32
    pseudo_values: Tensor | None  # [CK, D]


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
        keys = key[item, :, head].index_select(0, selection.key.order[at])
        values = value[item, :, head].index_select(0, selection.key.order[at])
        pseudo = selection.pseudo
        if pseudo is None:
            return _Head(queries, keys, values, None, None)
        # The size is added in float32: in bfloat16 its logarithm would be off by more than all the rest.
        logits = (queries @ pseudo.key[at].T.to(queries.dtype)).float()
        logits += queries.square() @ pseudo.half_variance[at].T.to(queries.dtype)
        logits.add_(pseudo.log_size[at])
        keys, values = pad(keys, (0, 0, 0, 1)), pad(values, (0, 0, 0, 1))
        return _Head(queries, keys, values, logits, pseudo.value[at].to(values.dtype))


def _attend_head(head: _Head, selection: Selection, at: tuple[int, int], sizes: list[int]) -> Tensor:
    """[S, D] in cluster order."""
    key_labels = selection.key.labels[at].index_select(0, selection.key.order[at]).long()
    outputs, start = [], 0
    for kept, size in zip(selection.kept[at], sizes, strict=True):
        if size == 0:
            continue
        rows, tokens = slice(start, start + size), kept.index_select(0, key_labels).nonzero().squeeze(1)
        if head.pseudo_logits is not None:
            tokens = pad(tokens, (0, 1), value=len(head.keys) - 1)
        keys, values = head.keys.index_select(0, tokens), head.values.index_select(0, tokens)
        if head.pseudo_logits is None or head.pseudo_values is None:
            outputs.append(_attend_tokens(head.queries[rows], keys, values))
        else:
            logits = head.pseudo_logits[rows].masked_fill(kept, -torch.inf)
            parts = zip(head.queries[rows].split(_ROWS), logits.split(_ROWS), strict=True)
            outputs += [_attend_both(queries, keys, values, some, head.pseudo_values) for queries, some in parts]
        start += size
    return torch.cat(outputs)


def _attend_tokens(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Plain attention; zero if there are no keys."""
    if queries.dtype == torch.float32:
        return scaled_dot_product_attention(queries[None, None], keys[None, None], values[None, None], scale=1.0)[0, 0]
    # In half precision a CPU multiplies far faster than its scaled_dot_product_attention does.
    return torch.cat([(part @ keys.T).softmax(-1) @ values for part in queries.split(_ROWS)])


def _attend_both(
    queries: Tensor, keys: Tensor, values: Tensor, pseudo_logits: Tensor, pseudo_values: Tensor
) -> Tensor:
    """Attention to tokens and pseudo-tokens in one softmax. The last row of keys and values is zero, and no token."""
    mass = pseudo_logits.logsumexp(-1, keepdim=True)
    pseudo_out = (pseudo_logits - mass).exp_().nan_to_num_(0.0).to(queries.dtype) @ pseudo_values  # nan: none is left
    if keys.shape[0] == 1:
        return pseudo_out
    # All pseudo-tokens together are one more column of the softmax, which so needs no second pass over the scores for
    # its normaliser. What rounding takes from their mass is made good after it.
    scores = queries @ keys.T
    rounded = mass.to(scores.dtype)
    scores[:, -1:] = rounded
    weights = scores.softmax(-1)
    lost = (mass - rounded.float()).nan_to_num_(0.0)  # nan: −inf less −inf
    share = weights[:, -1:].float()
    out = (weights @ values).float() + pseudo_out.float() * share * lost.exp()
    return (out / (1 + share * lost.expm1())).to(queries.dtype)


def load(device: torch.device) -> TorchBackend:  # the same everywhere
    """The backend."""
    return TorchBackend()
