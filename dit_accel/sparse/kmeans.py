"""Lloyd's k-means on the tokens of every head. Deterministic: it draws nothing from torch's generators."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .clusters import Clusters, Means

_CHUNK_ELEMENTS = 1 << 24  # of a token-to-centroid score matrix, so that a long sequence fits into memory


class Grouping(Means, Protocol):
    """The part of a backend that clustering needs."""

    def assign(self, tokens: Tensor, centroids: Tensor) -> Tensor:
        """[B, H, S] int32, the nearest of ``centroids`` [B, H, C, D] float32 for each token (the lowest of equals)."""

    def group(self, labels: Tensor, num_clusters: int) -> Clusters:
        """Sort tokens by label."""


def nearest_centroids(tokens: Tensor, centroids: Tensor) -> Tensor:
    """[B, H, S] int32, the nearest of ``centroids`` [B, H, C, D] to each of ``tokens`` [B, S, H, D].

    The distance is Euclidean. Norms are summed in float32 and compared in the dtype of ``tokens``, as products are.
    """
    num_tokens, num_centroids = tokens.shape[1], centroids.shape[2]
    # argmin |x − c|² = argmax x·c − |c|²/2
    penalty = (centroids.float().square().sum(-1) / -2)[:, :, None].to(tokens.dtype)
    columns = centroids.to(tokens.dtype).transpose(-1, -2)
    rows = max(1, _CHUNK_ELEMENTS // (tokens.shape[0] * tokens.shape[2] * num_centroids))
    labels = [
        # max() and not argmax(): five times as fast in bfloat16 on a CPU.
        (part.transpose(1, 2) @ columns).add_(penalty).max(-1).indices.to(torch.int32)
        for part in tokens.split(min(rows, num_tokens), dim=1)
    ]
    return torch.cat(labels, dim=-1)


def stratified_tokens(tokens: Tensor, count: int) -> Tensor:
    """[B, H, count, D] float32: one token from each of ``count`` equal stretches of the sequence, all different."""
    edges = torch.arange(count + 1, device=tokens.device) * tokens.shape[1] // count
    # Not the middle of each stretch: a video's rows are equally long, so it would be the same column all over.
    golden = (torch.arange(count, dtype=torch.float64, device=tokens.device) * 0.6180339887498949) % 1
    picks = edges[:-1] + (edges.diff() * golden).long()
    return tokens[:, picks].transpose(1, 2).float()


def cluster(tokens: Tensor, centroids: Tensor, iterations: int, ops: Grouping) -> tuple[Clusters, Tensor]:
    """Assign ``tokens`` [B, S, H, D] to ``centroids`` [B, H, C, D], with Lloyd iterations.

    Returns the clusters and their means, float32. ``iterations`` counts assignments; 0 assigns once and leaves the
    centroids where they are. A cluster that loses all its tokens keeps its centroid, and may win tokens again.
    """
    clusters, centroids = assign(tokens, centroids, iterations, ops)
    return clusters, recentre(ops.mean(tokens, clusters), clusters, centroids) if iterations else centroids


def assign(tokens: Tensor, centroids: Tensor, iterations: int, ops: Grouping) -> tuple[Clusters, Tensor]:
    """`cluster` up to the last assignment: the clusters, and the centroids that tokens were assigned to."""
    clusters = ops.group(ops.assign(tokens, centroids), centroids.shape[2])
    for _ in range(iterations - 1):
        centroids = recentre(ops.mean(tokens, clusters), clusters, centroids)
        clusters = ops.group(ops.assign(tokens, centroids), centroids.shape[2])
    return clusters, centroids


def recentre(means: Tensor, clusters: Clusters, centroids: Tensor) -> Tensor:
    """``means`` [B, H, C, D]; ``centroids`` where the cluster is empty."""
    return torch.where(clusters.sizes[..., None] > 0, means, centroids)


def sample_stride(num_tokens: int, num_centroids: int, tokens_per_centroid: int = 16) -> int:
    """Every how manieth token is enough for a first fit."""
    return max(1, num_tokens // (num_centroids * tokens_per_centroid))
