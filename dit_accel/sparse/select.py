"""Which clusters of keys each cluster of queries attends to: top-p over the attention that centroids estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from .clusters import PseudoTokens

_MAX_SPREAD = 20.0  # of logits; its exponential is beyond any choice


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


def stand_in_errors(
    query_mean: Tensor, query_half_variance: Tensor, pseudo: PseudoTokens, value_variance: Tensor, scale: float
) -> Tensor:
    """[B, H, CQ, CK] float32, log of the squared error of a stand-in, for a cluster that has all the attention.

    A stand-in weighs the values of its n tokens alike, where attention weighs them by the exponential of logits of
    variance s²: with values of variance σ² about their mean, (exp(s²) − 1) · σ² / n. −inf where one token stands in
    for itself.

    Args:
        query_mean, query_half_variance: [B, H, CQ, D].
        pseudo: the clusters of keys.
        value_variance: [B, H, CK], summed over channels.
        scale: factor of the dot product.
    """
    squares = (query_mean.square() + 2 * query_half_variance) * scale**2
    spread = 2 * squares @ pseudo.half_variance.transpose(-1, -2)
    return (spread.clamp(max=_MAX_SPREAD).expm1() * value_variance[:, :, None]).log() - pseudo.log_size[:, :, None]


def select_top_p(
    logits: Tensor,
    query_sizes: Tensor,
    key_sizes: Tensor,
    top_p: float,
    min_kept_tokens: int,
    errors: Tensor | None = None,
) -> Tensor:
    """[B, H, CQ, CK] bool: the clusters of keys to keep.

    The pairs of clusters of a head are taken until the share ``top_p`` of the head's attention is reached, those first
    that are worth most for what they cost: what leaving them to a stand-in would do to the output or, without
    ``errors``, their attention, *per token*. Queries that look at little get by with less than those that look at
    much; each keeps at least one cluster, and at least ``min_kept_tokens`` keys.

    Args:
        logits: [B, H, CQ, CK], see `estimated_logits`.
        query_sizes: [B, H, CQ], queries a cluster.
        key_sizes: [B, H, CK], keys a cluster.
        top_p: in [0, 1]; 1 keeps every cluster that is not empty.
        min_kept_tokens: of the keys.
        errors: [B, H, CQ, CK], see `stand_in_errors`; None if nothing stands for what is dropped.
    """
    is_filled = (key_sizes > 0)[:, :, None].expand_as(logits)
    if top_p >= 1:
        return is_filled.clone()
    log_share = logits.masked_fill(~is_filled, -torch.inf).log_softmax(-1)
    worth = log_share if errors is None else 2 * log_share + errors
    per_token = (worth - key_sizes.clamp(min=1).log()[:, :, None]).masked_fill(~is_filled, -torch.inf)
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
