"""How far attention is from dense at a density, as a curve: SVG2 of dit_accel, its rivals, and what oracles reach.

    OMP_NUM_THREADS=1 python benchmarks/svg2_error.py [--out benchmarks/results/svg2_error.json]

Everything is compared on the same clusters and at the same density, to which each method's own knob is set. Stand-ins
and probe rows count: a stand-in is one more pair for every query that needs it, and a probe row a whole row. Where a
method cannot come within 10 % of a density (so few tokens that the stand-ins alone are more), it has no row there.

The rivals: SVG2 as published, which takes for each cluster of queries the clusters of keys in the order of their size
times the exponential of the product of centroids, until ``top_p`` is passed, and leaves out what is dropped.
Positional blocks, which need no clusters: blocks of tokens in order, as large as clusters are on average, the best
ones by the product of mean query and mean key; the form that kernels for blocks (FlexAttention) run. The cluster
oracle knows the true attention of every pair of clusters and takes those with the most a token, per head; the token
oracle knows that of every token. Both leave out what they drop, so that a method with stand-ins may come nearer than
they. "error" is over all heads of the layer, "error_head_median" that of the middle one.

Synthetic data are hard for attention by clusters. Keys lie on a curved sheet of six dimensions, in groups that overlap
and whose sizes follow a power law; values vary along the sheet and from token to token, so that no cluster has one
value; queries come from the same sheet, moved. "groups" are the narrowest, on "sheet" they run into each other, and
"curved" bends so much that 64 keys are no longer alike. The sharpness is set so that the 13 % best tokens hold 95 % of
the attention, which is what the paper of SVG2 reports of Wan 2.1. Such tokens have no position: positional blocks get
them as they were drawn, so that every block is a sample of all, and "sorted" by group and along the sheet.

"model" is what the embedded model's own attention gets with a held-out prompt, at two steps and two layers: at its own
324 tokens, and at 2304, a size it was not trained for. There tokens are in the order of the video. Some of its heads
look at everything; there stand-ins are near exact. One looks at its own place alone: positional blocks have it, while
clusters of queries that are merely alike do not. Where every head keeps the same share of its own attention ("every
head alike"), such a head keeps few tokens, and makes up most of the error of the layer. The product takes the pairs
over all heads of the layer, by what their stand-ins would do wrong.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from rows import Row, write_rows
from svg2_cases import PROMPT, SYNTHETIC, Case, captured, synthetic
from svg2_methods import METHODS, PUBLISHED, SORTED, Clustered

from dit_accel import DEMO_INPUTS, load_demo_pipeline

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
REACH = 0.1  # how far the density may be from the one that is asked for, relatively
CLUSTERS = ((256, 64), (64, 64))  # queries and keys a cluster: "auto", and finer
MODEL_SIZES = {  # what is asked of the demo pipeline, and clusters for so many tokens
    "model": ({}, (24, 12)),
    "model, larger": ({"height": 96, "width": 96, "num_frames": 15}, (64, 32)),
}
Run = dict[str, float]


def measure(case: Case, clusters: tuple[int, int], densities: Iterable[float]) -> dict[tuple[str, float], Run]:
    """(method, density) -> what was found, for those that reach the density."""
    clustered = Clustered(case, *clusters)
    found: dict[tuple[str, float], Run] = {}
    for density, (name, method) in product(densities, METHODS.items()):
        if name == SORTED and case.neighbours is None:
            continue
        result = method(clustered, density)
        if abs(result.density - density) > REACH * density:
            continue
        error, of_heads = result.errors(case)
        run = {"density": result.density, "error": error, "error_head_median": statistics.median(of_heads)}
        found[name, density] = run
        if name != PUBLISHED and (PUBLISHED, density) in found:
            run["error_to_published"] = run["error"] / found[PUBLISHED, density]["error"]
        if result.kept is not None:
            kept, best = clustered.recall(result.kept)
            run |= {"recall": kept, "recall_to_oracle": kept / best}
    return found


def rows_of(data: str, cases: Sequence[Case], clusters: tuple[int, int], densities: Iterable[float]) -> list[Row]:
    """A row for each density and method, with the means over the cases in which it reaches the density."""
    runs: dict[tuple[str, float], list[Run]] = {}
    shapes = dict(zip(("tokens", "heads", "head_dim"), cases[0].query.shape[1:], strict=True))
    for case in cases:
        for key, run in measure(case, clusters, densities).items():
            runs.setdefault(key, []).append(run)
    setting = {"data": data, **dict(zip(("queries_per_cluster", "keys_per_cluster"), clusters, strict=True))}
    pipeline = "digits-wan" if data in MODEL_SIZES else "none"
    rows = []
    for (name, density), found in runs.items():
        # A figure that some case lacks has no mean.
        columns = {key: [run[key] for run in found] for key in found[0] if all(key in run for run in found)}
        quality = {key: statistics.fmean(column) for key, column in columns.items()}
        budget = {"density": quality.pop("density")}
        quality |= {f"{key}_max": max(columns[key]) for key in ("error", "error_to_published") if key in columns}
        own = {**setting, "density": density, "cases": len(found)}
        rows.append(Row("svg2_error", name, pipeline, shapes, budget=budget, quality=quality, setting=own))
    return rows


def main() -> None:
    """Measure and print a row for each kind of data, size of clusters, density and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="of synthetic data")
    parser.add_argument("--heads", type=int, default=2, help="of synthetic data; each has data of its own")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[128])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--no-model", action="store_true", help="synthetic data alone")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for kind, dim in product(SYNTHETIC, args.head_dims):
        cases = [synthetic(kind, args.tokens, args.heads, dim, seed) for seed in range(args.seeds)]
        rows += [row for clusters in CLUSTERS for row in rows_of(kind, cases, clusters, args.densities)]
    if not args.no_model:
        pipe = load_demo_pipeline()
        pipe.set_progress_bar_config(disable=True)
        for name, (size, clusters) in MODEL_SIZES.items():
            cases = captured(pipe, PROMPT, 101, **{**DEMO_INPUTS, **size})
            rows += rows_of(name, cases, clusters, args.densities)
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
