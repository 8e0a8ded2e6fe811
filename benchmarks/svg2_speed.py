"""SVG2 on a CPU against dense attention and against rivals, by number of tokens: warm, as a whole, k-means included.

    python benchmarks/svg2_speed.py [--out benchmarks/results/svg2_speed.json]

bfloat16, heads of 128 channels, about 30 % density by ``min_kept_ratio``, which gives it at every number of tokens.
A call of `svg2_attention` does all that it does at every step of a pipeline: clusters from the last centroids,
selection, probe rows, attention with stand-ins, the inverse permutation. Dense attention is torch's
`scaled_dot_product_attention`, and chunked products with a softmax between; each round times both and all others in
turn, and ratios are to the faster one of the same round, or to the former where the name says so. The number of rounds
follows from ``--seconds`` for each number of tokens, within limits.

"attend" is `Backend.attend` alone, up to 8192 tokens; its ideal is the time of the same backend with everything kept,
times the density. "clustering" is the assignment and sorting of queries and keys and the new centroids; its share is
of the whole call. The numbers of tokens tell from where on it pays: ``min_tokens`` of the backend. Run it on a quiet
machine: which dense path is the fastest, and by how much, depends on the processor.

Rivals, at the same density: SVG2 without compensation (``compensate=False, probe_rows=0``, as published), and
positional blocks in FlexAttention: blocks of 128 tokens in order, chosen by their means, choice included. A kernel is
compiled for every number of tokens, so it runs at those of ``--flex-tokens`` alone.

Growth rows: the exponent k of time ~ tokens^k, by least squares in logarithms over the numbers of tokens from 4096 on,
where constant costs no longer count.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import torch
from rows import Row, write_rows
from svg2_flex import PositionalFlex
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.configs import SVG2Config
from dit_accel.errors import BackendUnavailableError
from dit_accel.sparse import SVG2State, svg2_attention
from dit_accel.sparse.backends import load_backend
from dit_accel.sparse.clusters import Selection, summarize
from dit_accel.sparse.kmeans import cluster

DENSITY, WARM_UP = 0.30, 1
MIN_ROUNDS, MAX_ROUNDS = 3, 11
ROWS = 128  # queries at a time, in chunked dense attention
GROUPS, DRIFT = 48, 0.1
GROWTH_FROM = 4096
MOST_TOKENS = 8192  # for what is only looked at
CONFIG = SVG2Config(top_p=0.0, min_kept_ratio=DENSITY, min_tokens=0, backend="torch")
OURS, UNCOMPENSATED, FLEX = "dit_accel, backend torch", "SVG2 without compensation", "FlexAttention, positional blocks"
NAMES = {OURS: "svg2", UNCOMPENSATED: "uncompensated", FLEX: "flex"}  # subject -> what a round times
Tokens = tuple[Tensor, Tensor, Tensor]


def make_tokens(num_tokens: int, heads: int, dim: int, step: int) -> Tokens:
    """Query, key and value [1, S, H, D] bfloat16, about common centres; every step a little different."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(GROUPS, dim, generator=generator)
    which = torch.randint(0, GROUPS, (1, num_tokens, heads), generator=generator)
    query, key, value = (torch.randn(1, num_tokens, heads, dim, generator=generator) for _ in range(3))
    drift = DRIFT * torch.randn(2, 1, num_tokens, heads, dim, generator=torch.Generator().manual_seed(step + 1))
    query, key = 0.7 * query + centres[which] + drift[0], 0.7 * key + centres[which] + drift[1]
    return query.bfloat16(), key.bfloat16(), value.bfloat16()


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Torch's fused attention."""
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2).contiguous()


def chunked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Products and softmax of some queries at a time, a head after the other."""
    out = torch.empty_like(query)
    for head in range(query.shape[2]):
        queries = query[0, :, head] * query.shape[-1] ** -0.5
        columns, values = key[0, :, head].T.contiguous(), value[0, :, head].contiguous()
        parts = [(rows @ columns).softmax(-1) @ values for rows in queries.split(ROWS)]
        out[0, :, head] = torch.cat(parts)
    return out


class Warm:
    """`svg2_attention` with clusters from the steps before.

    Args:
        config: the knobs.
        steps: the tokens of some steps.
    """

    def __init__(self, config: SVG2Config, steps: Sequence[Tokens]) -> None:
        self.config, self.state = config, SVG2State()
        for tokens in steps:
            info = svg2_attention(*tokens, self.config, state=self.state)[1]
        self.density = info.density

    def __call__(self, tokens: Tokens) -> Tensor:
        return svg2_attention(*tokens, self.config, state=self.state)[0]


class Bench:
    """Everything that is timed, on the tokens of one step after another."""

    def __init__(self, num_tokens: int, heads: int, dim: int, flex: PositionalFlex | None) -> None:
        self.steps = [make_tokens(num_tokens, heads, dim, step) for step in range(2)]
        self.backend, self.scale, self.flex = load_backend(CONFIG.backend, torch.device("cpu")), dim**-0.5, flex
        self.ours = Warm(CONFIG, self.steps)
        self.plain = Warm(replace(CONFIG, compensate=False, probe_rows=0), self.steps)
        state = self.ours.state
        assert state.query is not None and state.key is not None and state.kept is not None
        pseudo = summarize(*self.steps[0][1:], state.key)
        self.selection = Selection(state.query, state.key, state.kept, pseudo)
        self.everything = replace(self.selection, kept=torch.ones_like(state.kept), pseudo=None)
        self.density = {OURS: self.ours.density, UNCOMPENSATED: self.plain.density}
        if flex is not None:
            self.density[FLEX] = flex.density(num_tokens)

    def clustering(self, tokens: Tokens) -> None:
        """What a warm step spends on k-means."""
        state = self.ours.state
        for x, centroids in zip(tokens, (state.query_centroids, state.key_centroids), strict=False):
            assert centroids is not None
            cluster(x, centroids, self.ours.config.kmeans_iters_step, self.backend)

    def round(self, index: int) -> dict[str, float]:
        """Seconds of each, in turn; the order is turned round every other time."""
        tokens = self.steps[index % len(self.steps)]
        calls: dict[str, Callable[[], object]] = {
            "sdpa": lambda: sdpa(*tokens),
            "chunked": lambda: chunked(*tokens),
            "svg2": lambda: self.ours(tokens),
            "uncompensated": lambda: self.plain(tokens),
            "clustering": lambda: self.clustering(tokens),
        }
        if tokens[0].shape[1] <= MOST_TOKENS:
            calls["attend"] = lambda: self.backend.attend(*tokens, self.selection, self.scale)
            calls["attend_all"] = lambda: self.backend.attend(*tokens, self.everything, self.scale)
        if self.flex is not None:
            flex = self.flex
            calls["flex"] = lambda: flex(*tokens)
        order = list(calls) if index % 2 else list(reversed(calls))
        return {name: seconds(calls[name]) for name in order}

    def rounds(self, budget: float) -> list[dict[str, float]]:
        """As many rounds as ``budget`` seconds allow, within limits; the first warms up."""
        found: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(found) < MAX_ROUNDS + WARM_UP:
            found.append(self.round(len(found)))
            spent = time.perf_counter() - start
            if len(found) >= MIN_ROUNDS + WARM_UP and spent * (1 + 1 / len(found)) > budget:
                break
        return found[WARM_UP:]


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return statistics.median(values), fifths[0], fifths[3]


def measure(num_tokens: int, threads: int, flex: PositionalFlex | None, args: argparse.Namespace) -> list[Row]:
    """A row for each method, with medians over the rounds."""
    torch.set_num_threads(threads)
    bench = Bench(num_tokens, args.heads, args.head_dim, flex)
    rounds = bench.rounds(args.seconds)
    dense = [min(found["sdpa"], found["chunked"]) for found in rounds]

    def median(ratio: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(ratio(found) for found in rounds)

    rows = []
    for subject, density in bench.density.items():
        name = NAMES[subject]
        ratio, low, high = percentiles([best / found[name] for best, found in zip(dense, rounds, strict=True)])
        figures = {"ratio_p20": low, "ratio_p80": high, f"{name}_ms": 1e3 * median(itemgetter(name))}
        figures["speedup_to_sdpa"] = median(partial(quotient, "sdpa", name))
        if subject == OURS:
            if "attend" in rounds[0]:
                figures["attend_share_of_ideal"] = density * median(partial(quotient, "attend_all", "attend"))
            figures["clustering_share"] = median(partial(quotient, "clustering", "svg2"))
            figures |= {f"{key}_ms": 1e3 * median(itemgetter(key)) for key in rounds[0] if key != "flex"}
        rows.append(
            Row(
                "svg2_speed",
                subject,
                shapes={"tokens": num_tokens, "heads": args.heads, "head_dim": args.head_dim},
                dtype="bfloat16",
                budget={"density": density},
                ratio=ratio,
                setting={"threads": threads, "rounds": len(rounds)},
                figures=figures,
            )
        )
    return rows


def quotient(one: str, other: str, found: dict[str, float]) -> float:
    """Seconds of ``one`` over those of ``other`` in a round."""
    return found[one] / found[other]


def growth(rows: Sequence[Row], threads: int) -> list[Row]:
    """How the time of each part grows with the tokens."""
    own = [row for row in rows if row.subject == OURS and row.setting["threads"] == threads]
    own = [row for row in own if row.shapes["tokens"] >= GROWTH_FROM]
    if len(own) < 3:
        return []
    sizes = [math.log(row.shapes["tokens"]) for row in own]
    found = []
    for name in ("sdpa", "chunked", "svg2", "uncompensated", "clustering"):
        slope, _ = statistics.linear_regression(sizes, [math.log(row.figures[f"{name}_ms"]) for row in own])
        setting = {"threads": threads, "of": [row.shapes["tokens"] for row in own]}
        shapes = {"heads": own[0].shapes["heads"], "head_dim": own[0].shapes["head_dim"]}
        figures = {"exponent": slope}
        found.append(
            Row("svg2_speed", f"growth of {name}", "none", shapes, "bfloat16", setting=setting, figures=figures)
        )
    return found


def main() -> None:
    """Measure and print a row for each number of tokens and of threads, and each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--flex-tokens", type=int, nargs="*", default=[4096, 16384])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing, for each number of tokens and threads")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[Row] = []
    flexes = {}
    for num_tokens in args.flex_tokens:
        try:
            flexes[num_tokens] = PositionalFlex(num_tokens, args.heads, args.head_dim, DENSITY)
        except BackendUnavailableError as problem:
            print(f"{FLEX}: not measured. {problem}")
            break
    for threads in args.threads:
        for num_tokens in args.tokens:
            rows += measure(num_tokens, threads, flexes.get(num_tokens), args)
        rows += growth(rows, threads)
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
