"""Random selections, as ragged as they come."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dit_accel.sparse.clusters import Clusters, Selection, summarize

Tokens = tuple[Tensor, Tensor, Tensor]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def tokens(batch: int, length: int, heads: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tokens:
    """Query, key and value [B, S, H, D]."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(batch, length, heads, dim, generator=generator).to(dtype) for _ in range(3))
    return query, key, value


def ragged(batch: int, length: int, heads: int, num_clusters: int, seed: int = 0) -> Clusters:
    """A partition with sizes of a power law; where there is room, some clusters are empty."""
    generator = torch.Generator().manual_seed(seed)
    share = 1 / torch.arange(1, num_clusters + 1).float() ** 1.5
    if num_clusters > 3:
        share[torch.randperm(num_clusters, generator=generator)[: num_clusters // 4]] = 0
    labels = torch.multinomial(share, batch * heads * length, replacement=True, generator=generator)
    return Clusters.of(labels.view(batch, heads, length), num_clusters)


def selection(
    qkv: Tokens, num_q: int, num_k: int, *, pseudo: str = "variance", kept_share: float = 0.4, seed: int = 0
) -> Selection:
    """Random clusters and kept pairs. ``pseudo``: "none", "mean", "variance", or "some" (not for every cluster)."""
    query, key, value = qkv
    batch, length, heads, _ = query.shape
    clusters_q = ragged(batch, length, heads, num_q, seed)
    clusters_k = ragged(batch, length, heads, num_k, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(batch, heads, num_q, num_k, generator=generator) < kept_share
    stand_ins = None if pseudo == "none" else summarize(key, value, clusters_k)
    if stand_ins is not None and pseudo == "mean":
        stand_ins = replace(stand_ins, half_variance=torch.zeros_like(stand_ins.half_variance))
    if stand_ins is not None and pseudo == "some":
        stand_ins.log_size[..., ::2] = -torch.inf
    return Selection(clusters_q, clusters_k, kept, stand_ins)
