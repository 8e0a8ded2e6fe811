"""The data of sparse attention: a partition of tokens, what stands for a dropped cluster, which clusters are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad


@dataclass(frozen=True)
class Clusters:
    """A partition of the S tokens of every batch item and head into C clusters; a cluster may be empty.

    Args:
        labels: [B, H, S] int32, the cluster of each token, in 0 … C − 1.
        order: [B, H, S] int32, token indices sorted by cluster, tokens of one cluster in their own order.
        sizes: [B, H, C] int32, tokens a cluster.
    """

    labels: Tensor
    order: Tensor
    sizes: Tensor

    @staticmethod
    def of(labels: Tensor, num_clusters: int) -> Clusters:
        """Sort the tokens by ``labels`` ([B, H, S], any integer type)."""
        labels = labels.to(torch.int32)
        order = torch.argsort(labels, dim=-1, stable=True).to(torch.int32)
        return Clusters(labels, order, count_labels(labels, num_clusters))

    @cached_property  # asked for by every kernel of a layer
    def starts(self) -> Tensor:
        """[B, H, C] int32, where each cluster begins in ``order``."""
        return (self.sizes.cumsum(-1) - self.sizes).to(torch.int32)


@dataclass(frozen=True, slots=True)
class PseudoTokens:
    """One token that stands for a whole cluster of keys where the cluster is dropped.

    Its logit for the query q is ``scale · q·key + scale² · Σ q²·half_variance + log_size``: the log of the mass that
    the cluster's keys have together, if they are spread like a Gaussian with that diagonal variance.

    Args:
        key: [B, H, C, D] float32, mean key.
        half_variance: [B, H, C, D] float32, half the variance of the keys; zero leaves the mean key alone.
        value: [B, H, C, D] float32, mean value.
        log_size: [B, H, C] float32, log of the number of keys. −inf: nothing stands for this cluster.
    """

    key: Tensor
    half_variance: Tensor
    value: Tensor
    log_size: Tensor

    def logits(self, query: Tensor, scale: float) -> Tensor:
        """[B, H, Q, C] float32, for queries [B, H, Q, D]."""
        scaled = query.float() * scale
        first = scaled @ self.key.transpose(-1, -2)
        second = scaled.square() @ self.half_variance.transpose(-1, -2)
        return first + second + self.log_size[..., None, :]

    def with_empty(self, count: int) -> PseudoTokens:
        """With ``count`` more clusters at the end, which nothing stands for."""
        key, half_variance, value = (pad(x, (0, 0, 0, count)) for x in (self.key, self.half_variance, self.value))
        return PseudoTokens(key, half_variance, value, pad(self.log_size, (0, count), value=-torch.inf))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which clusters of keys each cluster of queries attends to, and what stands for the others.

    Args:
        query, key: the partitions. Their numbers of clusters may differ.
        kept: [B, H, CQ, CK] bool.
        pseudo: stands for the clusters that are not kept, or None: they are left out of the softmax.
    """

    query: Clusters
    key: Clusters
    kept: Tensor
    pseudo: PseudoTokens | None = None

    def pairs(self) -> Tensor:
        """[B, H] float64, number of query-key pairs that are computed. Stays on the device."""
        kept_keys = (self.kept.double() * self.key.sizes[..., None, :]).sum(-1)
        return (kept_keys * self.query.sizes).sum(-1)


def count_labels(labels: Tensor, num_clusters: int) -> Tensor:
    """[..., C] int32, how often each label occurs along the last dimension."""
    counts = torch.zeros(*labels.shape[:-1], num_clusters, dtype=torch.int32, device=labels.device)
    return counts.scatter_add_(-1, labels.long(), torch.ones_like(labels, dtype=torch.int32))


def cluster_means(tokens: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
    """Mean and variance of each cluster, [B, H, C, D] float32 both; zero where it is empty. Deterministic.

    Args:
        tokens: [B, S, H, D].
        clusters: of the same tokens.
    """
    rows = _rows(tokens, clusters)
    means = _means(_values(tokens), rows, clusters)
    squares = tokens.reshape(-1, tokens.shape[-1]).to(torch.float32, copy=True).square_()  # one copy alive at a time
    return means, (_means(squares, rows, clusters) - means.square()).clamp(min=0)


def cluster_mean(tokens: Tensor, clusters: Clusters) -> Tensor:
    """The mean alone, see `cluster_means`."""
    return _means(_values(tokens), _rows(tokens, clusters), clusters)


def _values(tokens: Tensor) -> Tensor:
    """[B · S · H, D] float32."""
    return tokens.reshape(-1, tokens.shape[-1]).to(torch.float32)


def _rows(tokens: Tensor, clusters: Clusters) -> Tensor:
    """[B · H · S] int64, where the tokens of every head are in `_values`, in cluster order."""
    batch, num_tokens, heads, _ = tokens.shape
    item = torch.arange(batch, device=tokens.device)[:, None, None] * num_tokens
    head = torch.arange(heads, device=tokens.device)[:, None]
    return ((item + clusters.order) * heads + head).flatten()


def _means(values: Tensor, rows: Tensor, clusters: Clusters) -> Tensor:
    # A sum of each run of rows: the same every time, which sums by atomic additions are not.
    sizes = clusters.sizes.flatten().long()
    sums = embedding_bag(rows, values, sizes.cumsum(0) - sizes, mode="sum")
    return sums.view(*clusters.sizes.shape, -1) / clusters.sizes.clamp(min=1)[..., None]


class Means(Protocol):
    """The part of a backend that pseudo-tokens need. The same tokens give the same bits every time."""

    def mean(self, tokens: Tensor, clusters: Clusters) -> Tensor:
        """[B, H, C, D] float32, mean of each cluster of ``tokens`` [B, S, H, D]; zero where it is empty."""

    def moments(self, tokens: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
        """The mean, and the variance of each channel."""


class TorchMeans:
    """See `Means`."""

    def mean(self, tokens: Tensor, clusters: Clusters) -> Tensor:
        """See `Means.mean`."""
        return cluster_mean(tokens, clusters)

    def moments(self, tokens: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
        """See `Means.moments`."""
        return cluster_means(tokens, clusters)


def summarize(key: Tensor, value: Tensor, clusters: Clusters, means: Means | None = None) -> PseudoTokens:
    """The pseudo-tokens of keys and values [B, S, H, D]; ``means`` by torch if None."""
    means = means or TorchMeans()
    mean, variance = means.moments(key, clusters)
    return PseudoTokens(mean, variance / 2, means.mean(value, clusters), clusters.sizes.float().log())
