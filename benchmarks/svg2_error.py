"""How far SVG2 is from dense attention at 10 % density, and how good its selection is.

    OMP_NUM_THREADS=2 python benchmarks/svg2_error.py [--out benchmarks/results/svg2_error.json]

The data are synthetic, and hard for attention by clusters. Keys lie on a curved sheet of six dimensions, in groups
that overlap and whose sizes follow a power law; values vary along the sheet and from token to token, so that no
cluster has one value; queries come from the same sheet, moved. "groups" are the narrowest, on "sheet" they run into
each other, and "curved" bends so much that 64 keys are no longer alike. The sharpness is set so that the 13 % best
tokens hold 95 % of the attention, which is what the paper of SVG2 reports of Wan 2.1.

Everything is compared on the same clusters and at the same density, to which ``top_p`` is bisected; stand-ins count
as pairs. The rival is SVG2 as published: for each cluster of queries, clusters of keys in the order of their size
times the exponential of the product of centroids, until ``top_p`` is passed; what is dropped is left out. "With true
mass" shows what a better estimate of the mass would bring: a stand-in gets the attention that its tokens really have.

Both oracles know the true attention of every pair of clusters and take those with the most attention a token. One
chooses over all heads, the last pair in part; the other, "even", as SVG2 does: the same share for all queries.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from rows import Row, write_rows
from torch import Tensor

from dit_accel.configs import SVG2Config
from dit_accel.sparse import SVG2State, svg2_attention
from dit_accel.sparse.clusters import Clusters, Selection, cluster_mean
from dit_accel.sparse.reference import attend

DENSITY, TOLERANCE, ROUNDS = 0.10, 0.01, 24
ORACLE_TOKENS, ORACLE_SHARE = 0.13, 0.95
GROUPS, SHEET_DIMS = 48, 6
DATA = {"groups": (0.3, 0.15), "sheet": (0.3, 0.3), "curved": (0.7, 0.3)}  # how much it bends, how wide groups are
QUERIES_PER_CLUSTER = (256, 64)  # "auto", and finer


@dataclass(frozen=True)
class Case:
    """Query, key and value [1, S, H, D] float32, dense attention to them, and its weights [1, H, S, S]."""

    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    dense: Tensor

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.query.shape[-1])


@dataclass(frozen=True)
class Result:
    """The output of a method, what it kept, and the share of the pairs that it computed."""

    out: Tensor
    chosen: Selection
    density: float


def make_case(kind: str, num_tokens: int, heads: int, dim: int, seed: int) -> Case:
    """See the top of the file; every head has its own sheet, groups and sharpness."""
    generator = torch.Generator().manual_seed(seed)
    parts = [make_head(*DATA[kind], num_tokens, dim, generator) for _ in range(heads)]
    query, key, value = (torch.stack(part)[None].transpose(1, 2).contiguous() for part in zip(*parts, strict=True))
    weights = (query.transpose(1, 2) @ key.permute(0, 2, 3, 1) / math.sqrt(dim)).softmax(-1)
    return Case(query, key, value, weights, (weights @ value.transpose(1, 2)).transpose(1, 2))


def make_head(
    bend: float, width: float, num_tokens: int, dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value [S, D]."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    share = 1 / torch.arange(1, GROUPS + 1).float() ** 1.2
    group = torch.multinomial(share, num_tokens, replacement=True, generator=generator)
    widths = width * (1 + 1.6 * torch.rand(GROUPS, 1, generator=generator))
    place = normal(GROUPS, SHEET_DIMS)[group] + widths[group] * normal(num_tokens, SHEET_DIMS)
    bends, sheet = normal(SHEET_DIMS, dim) * bend, normal(2 * dim, dim) / math.sqrt(dim)
    phase = 2 * math.pi * torch.rand(dim, generator=generator)

    def on_sheet(where: Tensor) -> Tensor:
        curves = torch.cat([torch.sin(where @ bends + phase), torch.cos(where @ bends - phase)], -1)
        return curves @ sheet + 0.2 * normal(num_tokens, dim)

    query, key = on_sheet(place + 0.3 * normal(num_tokens, SHEET_DIMS)), on_sheet(place)
    waves = torch.sin(place @ normal(SHEET_DIMS, dim))
    value = place @ normal(SHEET_DIMS, dim) * 0.4 + waves + 0.5 * normal(num_tokens, dim)
    return sharpen(query, key), key, value


def sharpen(query: Tensor, key: Tensor) -> Tensor:
    """``query`` times the factor with which the best tokens hold the share of attention that they should."""
    rows = query[:: max(1, len(query) // 256)] @ key.T / math.sqrt(query.shape[1])
    low, high, count = 0.0, 64.0, round(ORACLE_TOKENS * len(key))
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        held = (rows * middle).softmax(-1).topk(count).values.sum(-1).mean()
        low, high = (middle, high) if held < ORACLE_SHARE else (low, middle)
    return query * low


def published(case: Case, config: SVG2Config, top_p: float) -> Result:
    """SVG2 as published, on the clusters of `svg2_attention`."""
    state = SVG2State()
    svg2_attention(case.query, case.key, case.value, config, state=state)
    assert state.query is not None and state.key is not None
    query_means, key_means = cluster_mean(case.query, state.query), cluster_mean(case.key, state.key)
    products = query_means @ key_means.transpose(-1, -2) * case.scale
    share = (products + state.key.sizes.float().log()[:, :, None]).softmax(-1)
    by_rank = share.argsort(dim=-1, descending=True)
    ranked = share.gather(-1, by_rank)
    kept = torch.zeros_like(share, dtype=torch.bool).scatter(-1, by_rank, ranked.cumsum(-1) - ranked < top_p)
    chosen = Selection(state.query, state.key, kept)
    out = attend(case.query, case.key, case.value, chosen, case.scale)
    return Result(out, chosen, float(chosen.pairs().sum()) / case.weights.numel())


def ours(case: Case, config: SVG2Config, top_p: float, *, compensate: bool) -> Result:
    """`svg2_attention`; a stand-in counts as one more pair for every query that needs it."""
    state = SVG2State()
    config = replace(config, top_p=top_p, compensate=compensate)
    out, info = svg2_attention(case.query, case.key, case.value, config, state=state)
    assert state.query is not None and state.key is not None and state.kept is not None
    num_dropped = ((~state.kept).sum(-1) * state.query.sizes).sum() if compensate else 0
    density = info.density + float(num_dropped) / case.weights.numel()
    return Result(out, Selection(state.query, state.key, state.kept), density)


def with_true_mass(case: Case, config: SVG2Config, top_p: float) -> Result:
    """The selection of `ours`, and stand-ins with the mean value and the true attention of their clusters."""
    result = ours(case, config, top_p, compensate=True)
    key, query_labels = result.chosen.key, result.chosen.query.labels.long()
    kept = result.chosen.kept.gather(2, query_labels[..., None].expand(-1, -1, -1, key.sizes.shape[-1]))
    kept_tokens = kept.gather(3, key.labels.long()[:, :, None].expand_as(case.weights))
    out = (case.weights * kept_tokens) @ case.value.transpose(1, 2)
    out += (case.weights @ one_hot(key) * ~kept) @ cluster_mean(case.value, key)
    return replace(result, out=out.transpose(1, 2))


def closest(found: Callable[[float], Result], density: float) -> Result:
    """What ``found`` gives for the ``top_p`` whose density comes closest."""
    low, high, best = 0.0, 1.0, found(1.0)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        result = found(middle)
        best = min(best, result, key=lambda one: abs(one.density - density))
        if abs(best.density - density) < TOLERANCE * density:
            break
        low, high = (middle, high) if result.density < density else (low, middle)
    return best


def one_hot(clusters: Clusters) -> Tensor:
    """[1, H, S, C] float32, the cluster of each token."""
    return torch.nn.functional.one_hot(clusters.labels.long(), clusters.sizes.shape[-1]).float()


def recall(case: Case, chosen: Selection) -> tuple[float, float, float]:
    """Share of the attention that the selection keeps, and that both oracles keep with as many pairs."""
    attention = one_hot(chosen.query).transpose(-1, -2) @ case.weights @ one_hot(chosen.key)
    pairs = (chosen.query.sizes[..., None] * chosen.key.sizes[..., None, :]).float()
    total, budget = attention.double().sum(), chosen.pairs().sum()
    worth = (attention / pairs).nan_to_num(0.0)

    by_worth = worth.flatten().argsort(descending=True)
    costs = pairs.flatten()[by_worth].double()
    part = ((budget - costs.cumsum(0)) / costs.clamp(min=1) + 1).clamp(0, 1)
    best = (attention.flatten()[by_worth] * part).sum()

    by_rank = worth.argsort(dim=-1, descending=True)
    ranked = attention.gather(-1, by_rank) / attention.sum(-1, keepdim=True).clamp(min=1e-12)
    before = ranked.cumsum(-1) - ranked

    def even(share: float) -> Result:
        kept = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, by_rank, before < share)
        return Result(attention[kept], chosen, float((pairs * kept).sum()) / case.weights.numel())

    best_even = closest(even, float(budget) / case.weights.numel()).out.double().sum()
    kept = attention[chosen.kept].double().sum()
    return float(kept / total), float(best / total), float(best_even / total)


Method = Callable[[Case, SVG2Config, float], Result]
PUBLISHED = "SVG2 as published"
METHODS: dict[str, Method] = {
    PUBLISHED: published,
    "dit_accel, no compensation": partial(ours, compensate=False),
    "dit_accel": partial(ours, compensate=True),
    "dit_accel, with true mass": with_true_mass,
}


def measure(kind: str, dim: int, queries_per_cluster: int, args: argparse.Namespace) -> list[Row]:
    """A row for each method, over all seeds."""
    config = SVG2Config(
        min_tokens=0, min_kept_ratio=0.0, backend="torch", num_q_centroids=args.tokens // queries_per_cluster
    )
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for seed in range(args.seeds):
        case = make_case(kind, args.tokens, args.heads, dim, seed)
        for name, method in METHODS.items():
            result = closest(partial(method, case, config), DENSITY)
            kept, best, best_even = recall(case, result.chosen)
            error = float((result.out - case.dense).norm() / case.dense.norm())
            rival = runs[PUBLISHED][seed]["error"] if runs[PUBLISHED][seed:] else error
            runs[name].append(
                {
                    "error": error,
                    "error_to_published": error / rival,
                    "density": result.density,
                    "recall": kept,
                    "recall_to_oracle": kept / best,
                    "recall_to_even_oracle": kept / best_even,
                }
            )
    setting = {"data": kind, "tokens": args.tokens, "heads": args.heads, "head_dim": dim, "seeds": args.seeds}
    setting["queries_per_cluster"] = queries_per_cluster
    return [Row("svg2_error", name, setting, summary(found)) for name, found in runs.items()]


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds, and the worst of the two ratios."""
    figures = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    figures["error_to_published_max"] = max(run["error_to_published"] for run in runs)
    figures["recall_to_oracle_min"] = min(run["recall_to_oracle"] for run in runs)
    return figures


def main() -> None:
    """Measure and print a row for each kind of data, head size and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = product(DATA, args.head_dims, QUERIES_PER_CLUSTER)
    rows = [row for kind, dim, queries in settings for row in measure(kind, dim, queries, args)]
    write_rows(rows, args.out, machine=platform.processor() or platform.machine())


if __name__ == "__main__":
    main()
