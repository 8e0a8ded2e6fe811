"""Which clusters of keys each cluster of queries attends to: top-p over the attention that centroids estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from .clusters import PseudoTokens


def estimated_logits(query_mean: Tensor, query_half_variance: Tensor, pseudo: PseudoTokens, scale: float) -> Tensor:
    """[B, H, CQ, CK] float32, log of the mass that each cluster of keys has for a typical query of each cluster.

    Of second order on both sides: a spread cluster holds more than its centroid says (Jensen's inequality).

    Args:
        query_mean, query_half_variance: [B, H, CQ, D].
        pseudo: the clusters of keys.
        scale: factor of the dot product.
    """
    spread_queries = query_half_variance @ (pseudo.key * scale).square().transpose(-1, -2)
    return pseudo.logits(query_mean, scale) + spread_queries


def select_top_p(logits: Tensor, query_sizes: Tensor, key_sizes: Tensor, top_p: float, min_kept_tokens: int) -> Tensor:
    """[B, H, CQ, CK] bool: the clusters of keys to keep.

    The pairs of clusters of a head are taken in order of their attention *per token*, which buys the most attention
    for what it costs, until the share ``top_p`` of the head's attention is reached. Queries that look at little get by
    with less than those that look at much; each keeps at least one cluster, and at least ``min_kept_tokens`` keys.

    Args:
        logits: [B, H, CQ, CK], see `estimated_logits`.
        query_sizes: [B, H, CQ], queries a cluster.
        key_sizes: [B, H, CK], keys a cluster.
        top_p: in [0, 1]; 1 keeps every cluster that is not empty.
        min_kept_tokens: of the keys.
    """
    is_filled = (key_sizes > 0)[:, :, None].expand_as(logits)
    if top_p >= 1:
        return is_filled.clone()
    log_share = logits.masked_fill(~is_filled, -torch.inf).log_softmax(-1)
    per_token = log_share - key_sizes.clamp(min=1).log()[:, :, None]
    attention = log_share.exp() * query_sizes[..., None]
    wanted = top_p * query_sizes.sum(-1)[..., None]
    kept = _best(per_token.flatten(2), attention.flatten(2), wanted).view_as(logits)
    kept |= _best(per_token, key_sizes[:, :, None].expand_as(logits), max(min_kept_tokens, 1))
    return kept & is_filled


def _best(worth: Tensor, amount: Tensor, wanted: Tensor | int) -> Tensor:
    """As many of the last dimension, the ones of most ``worth``, as it takes to collect ``wanted``."""
    by_rank = worth.argsort(dim=-1, descending=True, stable=True)
    ranked = amount.gather(-1, by_rank)
    is_short = ranked.cumsum(-1) - ranked < wanted
    return torch.zeros_like(is_short).scatter(-1, by_rank, is_short)
