"""Which clusters of keys each cluster of queries attends to: top-p over the attention that centroids estimate.

The share is one of all heads of a layer together. A head that looks at everything leaves most of it to stand-ins, and
one that looks at a few tokens, where these are wrong, gets what the other spares.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .clusters import PseudoTokens

_MAX_SPREAD = 20.0  # of logits; its exponential is beyond any choice
BINS_PER_NAT = 32
BEST_WORTH, LEAST_WORTH = 64, -128  # of a token; all below is alike, and has no attention left to speak of
_NUM_BINS = (BEST_WORTH - LEAST_WORTH) * BINS_PER_NAT
_UNITS = 2.0**32  # of a query's attention; 64 heads of 2^22 tokens have 2^60 of them


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
    rank_sum: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """[B, H, CQ, CK] bool: the clusters of keys to keep.

    The pairs of clusters of all heads are taken until the share ``top_p`` of the attention of all heads is reached,
    those first that are worth most for what they cost: what leaving them to a stand-in would do to the output or,
    without ``errors``, their attention, *per token*. Heads and queries that look at little get by with less than those
    that look at much; each cluster of queries keeps at least one of keys, and at least ``min_kept_tokens`` keys. Where
    a stand-in is exact there is nothing to take: such attention has no part in the share. Batch items are apart.

    Pairs whose worth is the same to 1/32 nat are taken together, so a little more than the share may be kept.

    Args:
        logits: [B, H, CQ, CK], see `estimated_logits`.
        query_sizes: [B, H, CQ], queries a cluster.
        key_sizes: [B, H, CK], keys a cluster.
        top_p: in [0, 1]; 1 keeps every cluster that is not empty.
        min_kept_tokens: of the keys.
        errors: [B, H, CQ, CK], see `stand_in_errors`; None if nothing stands for what is dropped.
        rank_sum: adds whole numbers up over the processes that have the other heads; None: there are none.
    """
    is_filled = (key_sizes > 0)[:, :, None].expand_as(logits)
    if top_p >= 1:
        return is_filled.clone()
    log_share = logits.masked_fill(~is_filled, -torch.inf).log_softmax(-1)
    worth = log_share if errors is None else 2 * log_share + errors
    per_token = (worth - key_sizes.clamp(min=1).log()[:, :, None]).masked_fill(~is_filled, -torch.inf)
    kept = _best_of_all_heads(per_token, log_share.exp() * query_sizes[..., None], top_p, rank_sum)
    kept |= _best(per_token, key_sizes[:, :, None].expand_as(logits), max(min_kept_tokens, 1))
    return kept & is_filled


def _best_of_all_heads(
    worth: Tensor, attention: Tensor, top_p: float, rank_sum: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """The pairs [B, H, CQ, CK] of most ``worth`` that have ``top_p`` of the attention; none of those worth nothing.

    By a histogram, not by rank: ranks need only add theirs up. In whole numbers, so that neither the order of the
    additions nor how ranks divide the heads changes a bit of it.
    """
    is_exact = worth == -torch.inf
    bins = ((BEST_WORTH - worth) * BINS_PER_NAT).nan_to_num_(0.0, posinf=_NUM_BINS).clamp_(0, _NUM_BINS - 1).long()
    units = (attention * _UNITS).nan_to_num_(0.0).masked_fill_(is_exact, 0.0).long()
    # A head at a time: additions to one number of a GPU's memory wait for each other.
    histogram = units.new_zeros(*worth.shape[:2], _NUM_BINS).scatter_add_(2, bins.flatten(2), units.flatten(2)).sum(1)
    if rank_sum is not None:
        histogram = rank_sum(histogram)
    reached = histogram.cumsum(-1)
    is_short = reached - histogram < top_p * reached[:, -1:].double()
    return (bins < is_short.sum(-1)[:, None, None, None]) & ~is_exact


def _best(worth: Tensor, amount: Tensor, wanted: Tensor | int) -> Tensor:
    """As many of the last dimension, the ones of most ``worth``, as it takes to collect ``wanted``."""
    by_rank = worth.argsort(dim=-1, descending=True, stable=True)
    ranked = amount.gather(-1, by_rank)
    is_short = ranked.cumsum(-1) - ranked < wanted
    return torch.zeros_like(is_short).scatter(-1, by_rank, is_short)
