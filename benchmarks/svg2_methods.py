"""The methods that ``svg2_error.py`` compares: each turns an attention and a density into an output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from svg2_cases import Case
from torch import Tensor

from dit_accel.configs import SVG2Config
from dit_accel.sparse import SVG2State, svg2_attention
from dit_accel.sparse.clusters import Clusters, PseudoTokens, Selection, cluster_mean, cluster_means
from dit_accel.sparse.probe import probe, probe_rows
from dit_accel.sparse.select import estimated_logits, select_top_p, stand_in_errors
from dit_accel.sparse.torch_backend import TorchBackend

ROUNDS = 24
PROBE_SHARE = 64  # one of so many queries is a probe row; in a model of 75,600 tokens it is one of 1,200
BACKEND = TorchBackend()


@dataclass(frozen=True)
class Result:
    """The output of a method at all queries or at ``every`` so many-th, and the share of the pairs that it computed.

    ``kept`` [1, H, CQ, CK] bool is what it kept of pairs of clusters, None where it does not keep such.
    """

    out: Tensor
    density: float
    kept: Tensor | None = None
    every: int = 1

    def errors(self, case: Case) -> tuple[float, list[float]]:
        """Relative error of the output over all heads, and of each head."""
        dense = case.dense[:, :: self.every]
        wrong, all_of_it = ((x.square().sum((0, 1, 3))) for x in (self.out - dense, dense))
        return float((wrong.sum() / all_of_it.sum()).sqrt()), (wrong / all_of_it).sqrt().tolist()


class Clustered:
    """A case with the clusters that `svg2_attention` gives it, and what SVG2 and the oracles know of them.

    Args:
        case: the attention.
        queries_per_cluster, keys_per_cluster: on average.
    """

    def __init__(self, case: Case, queries_per_cluster: int, keys_per_cluster: int) -> None:
        num_tokens = case.query.shape[1]
        self.case, self.blocks = case, (queries_per_cluster, keys_per_cluster)
        self.config = SVG2Config(
            min_tokens=0,
            min_kept_ratio=0.0,
            backend="torch",
            probe_rows=max(1, num_tokens // PROBE_SHARE),
            num_q_centroids=num_tokens // queries_per_cluster,
            num_k_centroids=num_tokens // keys_per_cluster,
        )
        state = SVG2State()
        svg2_attention(case.query, case.key, case.value, self.config, state=state)
        assert state.query is not None and state.key is not None
        self.queries, self.keys = state.query, state.key
        self.query_mean, self.query_variance = cluster_means(case.query, self.queries)
        self.key_mean, key_variance = cluster_means(case.key, self.keys)
        value_mean, self.value_variance = cluster_means(case.value, self.keys)
        sizes = self.keys.sizes.float().log()
        self.pseudo = PseudoTokens(self.key_mean, key_variance / 2, value_mean, sizes)

    @cached_property
    def attention(self) -> Tensor:
        """[1, H, CQ, CK], the true attention of every pair of clusters, summed over queries."""
        return one_hot(self.queries).transpose(-1, -2) @ self.case.weights @ one_hot(self.keys)

    @cached_property
    def pairs(self) -> Tensor:
        """[1, H, CQ, CK] float32, query-key pairs of every pair of clusters."""
        return (self.queries.sizes[..., None] * self.keys.sizes[..., None, :]).float()

    @cached_property
    def estimates(self) -> tuple[Tensor, Tensor]:
        """[1, H, CQ, CK] both: logits as `svg2_attention` estimates them, and what a stand-in would do wrong."""
        half, scale = self.query_variance / 2, self.case.scale
        logits = estimated_logits(self.query_mean, half, self.pseudo, scale)
        return logits, stand_in_errors(self.query_mean, half, self.pseudo, self.value_variance.sum(-1), scale)

    def kept(self, top_p: float, *, compensate: bool) -> Tensor:
        """What `svg2_attention` keeps with this ``top_p``."""
        logits, errors = self.estimates
        sizes = self.queries.sizes, self.keys.sizes
        return select_top_p(logits, *sizes, top_p, 0, errors if compensate else None)

    def kept_per_head(self, top_p: float) -> Tensor:
        """What it would keep if every head had to reach this share of its own attention."""
        logits, errors = self.estimates
        share = logits.log_softmax(-1)
        worth = (2 * share + errors - self.pseudo.log_size[:, :, None]).nan_to_num(nan=-math.inf, neginf=-math.inf)
        amount = share.exp() * self.queries.sizes[..., None]
        kept = _first(worth.flatten(2), amount.flatten(2), top_p * self.case.query.shape[1]).view_as(worth)
        return kept & (self.pairs > 0)

    def kept_as_published(self, top_p: float) -> Tensor:
        """For each cluster of queries, clusters of keys by the mass of centroids, until ``top_p`` is passed."""
        products = self.query_mean @ self.key_mean.transpose(-1, -2) * self.case.scale
        share = (products + self.pseudo.log_size[:, :, None]).softmax(-1)
        return _first(share, share, top_p)

    def kept_by_oracle(self, pairs: float) -> Tensor:
        """The pairs of clusters of each head with the most true attention a token, up to a number of pairs."""
        worth = (self.attention / self.pairs).nan_to_num(0.0).flatten(2)
        return _first(worth, self.pairs.flatten(2), pairs).view_as(self.pairs)

    def density(self, kept: Tensor, *, with_stand_ins: bool = False) -> float:
        """Share of the pairs in ``kept``; a stand-in is one more for each query, a probe row is dense."""
        pairs = float((self.pairs * kept).sum(dtype=torch.float64))
        probes = 0.0
        if with_stand_ins:
            pairs += float(((~kept).sum(-1) * self.queries.sizes).sum())
            probes = self.config.probe_rows / self.case.query.shape[1]
        return pairs / self.case.weights.numel() + probes

    def recall(self, kept: Tensor) -> tuple[float, float]:
        """Share of the attention that is kept, and that the cluster oracle keeps with as many pairs in each head."""
        budgets = (self.pairs * kept).sum((-1, -2))[0]
        best = 0.0
        for head, budget in enumerate(budgets):
            oracle = self.kept_by_oracle(float(budget))[0, head]
            best += float(self.attention[0, head][oracle].sum())
        total = float(self.attention.sum())
        return float(self.attention[kept].sum()) / total, best / total


def one_hot(clusters: Clusters) -> Tensor:
    """[1, H, S, C] float32, the cluster of each token."""
    return torch.nn.functional.one_hot(clusters.labels.long(), clusters.sizes.shape[-1]).float()


def _first(worth: Tensor, amount: Tensor, wanted: float) -> Tensor:
    """As many of the last dimension, the ones of most ``worth``, as it takes to collect ``wanted``."""
    by_rank = worth.argsort(dim=-1, descending=True, stable=True)
    ranked = amount.gather(-1, by_rank)
    return torch.zeros_like(worth, dtype=torch.bool).scatter(-1, by_rank, ranked.cumsum(-1) - ranked < wanted)


def closest(density_of: Callable[[float], float], density: float, low: float = 0.0, high: float = 1.0) -> float:
    """The argument in ``low`` … ``high`` for which the growing ``density_of`` comes closest to ``density``."""
    best, best_gap = high, abs(density_of(high) - density)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        found = density_of(middle)
        if abs(found - density) < best_gap:
            best, best_gap = middle, abs(found - density)
        low, high = (middle, high) if found < density else (low, middle)
    return best


def _attend(clustered: Clustered, kept: Tensor) -> Result:
    case = clustered.case
    selection = Selection(clustered.queries, clustered.keys, kept)
    out = BACKEND.attend(case.query, case.key, case.value, selection, case.scale)
    return Result(out, clustered.density(kept), kept)


def ours(clustered: Clustered, density: float) -> Result:
    """`svg2_attention`, with all that it counts: pairs, stand-ins, probe rows."""

    def density_of(top_p: float) -> float:
        return clustered.density(clustered.kept(top_p, compensate=True), with_stand_ins=True)

    case, state, top_p = clustered.case, SVG2State(), closest(density_of, density)
    config = replace(clustered.config, top_p=top_p)
    out, _ = svg2_attention(case.query, case.key, case.value, config, state=state)
    assert state.kept is not None
    return Result(out, clustered.density(state.kept, with_stand_ins=True), state.kept)


def per_head(clustered: Clustered, density: float) -> Result:
    """`ours`, but every head keeps the same share of its own attention."""

    def density_of(top_p: float) -> float:
        return clustered.density(clustered.kept_per_head(top_p), with_stand_ins=True)

    case = clustered.case
    kept = clustered.kept_per_head(closest(density_of, density))
    selection = Selection(clustered.queries, clustered.keys, kept, clustered.pseudo)
    tokens = (case.query, case.key, case.value)
    rows = probe_rows(clustered.config.probe_rows, 0, case.query.shape[1], case.query.device)
    probed = probe(*tokens, selection, rows, case.scale)
    out = BACKEND.attend(*tokens, replace(selection, pseudo=probed.pseudo), case.scale)
    return Result(out, clustered.density(kept, with_stand_ins=True), kept)


def uncompensated(clustered: Clustered, density: float) -> Result:
    """Our selection, nothing stands for what is dropped."""
    top_p = closest(lambda p: clustered.density(clustered.kept(p, compensate=False)), density)
    return _attend(clustered, clustered.kept(top_p, compensate=False))


def published(clustered: Clustered, density: float) -> Result:
    """SVG2 as published."""
    top_p = closest(lambda p: clustered.density(clustered.kept_as_published(p)), density)
    return _attend(clustered, clustered.kept_as_published(top_p))


def cluster_oracle(clustered: Clustered, density: float) -> Result:
    """The best pairs of clusters, nothing stands for what is dropped."""
    pairs = density * clustered.case.weights[0, 0].numel()
    best = closest(lambda p: clustered.density(clustered.kept_by_oracle(p)), density, 0.0, 2 * pairs)
    return _attend(clustered, clustered.kept_by_oracle(best))


def positional(clustered: Clustered, density: float, order: Tensor | None = None) -> Result:
    """Blocks of tokens in order, as large as clusters are on average; the best ones by the product of their means."""
    case, (rows, columns) = clustered.case, clustered.blocks
    queries, keys = _cut(case, order, rows), _cut(case, order, columns)
    num_keys = keys.sizes.shape[-1]
    scores = cluster_mean(case.query, queries) @ cluster_mean(case.key, keys).transpose(-1, -2)
    # Every block of queries keeps as many: a fraction becomes one more for some of them.
    edges = (torch.arange(queries.sizes.shape[-1] + 1) * (density * num_keys)).round()
    count = edges.diff().clamp(min=1).long()
    rank = scores.argsort(-1, descending=True).argsort(-1)
    selection = Selection(queries, keys, rank < count[:, None])
    out = BACKEND.attend(case.query, case.key, case.value, selection, case.scale)
    return Result(out, float(selection.pairs().sum()) / case.weights.numel())


def positional_sorted(clustered: Clustered, density: float) -> Result:
    """`positional`, with the tokens in an order in which neighbours are alike."""
    return positional(clustered, density, clustered.case.neighbours)


def _cut(case: Case, order: Tensor | None, block: int) -> Clusters:
    """Every ``block`` tokens of ``order`` [1, H, S] are a cluster."""
    _, num_tokens, heads, _ = case.query.shape
    place = torch.arange(num_tokens).expand(1, heads, -1)
    labels = torch.empty_like(place).scatter_(-1, place if order is None else order, place) // block
    return Clusters.of(labels, math.ceil(num_tokens / block))


def token_oracle(clustered: Clustered, density: float) -> Result:
    """For each query, the keys with the most attention. Some rows stand for all."""
    case, every = clustered.case, 8
    weights = case.weights[:, :, ::every]
    count = max(1, round(density * weights.shape[-1]))
    best = weights.topk(count, -1)
    kept = torch.zeros_like(weights).scatter_(-1, best.indices, best.values)
    out = (kept / kept.sum(-1, keepdim=True)) @ case.value.transpose(1, 2)
    return Result(out.transpose(1, 2), count / weights.shape[-1], None, every)


PUBLISHED, SORTED = "SVG2 as published", "positional blocks, sorted"
METHODS: dict[str, Callable[[Clustered, float], Result]] = {
    PUBLISHED: published,
    "dit_accel": ours,
    "dit_accel, every head alike": per_head,
    "dit_accel, no compensation": uncompensated,
    "positional blocks": positional,
    SORTED: positional_sorted,
    "cluster oracle": cluster_oracle,
    "token oracle": token_oracle,
}
