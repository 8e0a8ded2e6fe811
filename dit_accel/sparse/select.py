"""Which clusters of keys a cluster of queries attends to: top-p over the attention that centroids estimate."""

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


def select_top_p(logits: Tensor, sizes: Tensor, top_p: float, min_kept_tokens: int) -> Tensor:
    """[B, H, CQ, CK] bool: the clusters of keys to keep.

    Clusters are taken in order of their attention *per token*, which buys the most attention for the pairs that it
    costs, until the share ``top_p`` is reached and at least ``min_kept_tokens`` keys are in.

    Args:
        logits: [B, H, CQ, CK], see `estimated_logits`.
        sizes: [B, H, CK], keys a cluster.
        top_p: in [0, 1]; 1 keeps every cluster that is not empty.
        min_kept_tokens: of the keys.
    """
    is_filled = (sizes > 0)[:, :, None].expand_as(logits)
    if top_p >= 1:
        return is_filled.clone()
    mass = logits.masked_fill(~is_filled, -torch.inf).softmax(-1)
    per_token = (logits - sizes.clamp(min=1).log()[:, :, None]).masked_fill(~is_filled, -torch.inf)
    by_rank = per_token.argsort(dim=-1, descending=True, stable=True)
    ranked_mass = mass.gather(-1, by_rank)
    ranked_sizes = sizes[:, :, None].expand_as(logits).gather(-1, by_rank)
    is_short_of_mass = ranked_mass.cumsum(-1) - ranked_mass < top_p
    is_short_of_tokens = ranked_sizes.cumsum(-1) - ranked_sizes < min_kept_tokens
    ranked = is_short_of_mass | is_short_of_tokens
    return torch.zeros_like(is_filled).scatter(-1, by_rank, ranked) & is_filled
