"""SVG2 on a CPU against the fastest dense attention that torch has, warm and as a whole.

    python benchmarks/svg2_speed.py [--out benchmarks/results/svg2_speed.json]

bfloat16, heads of 128 channels, about 30 % density. A call of `svg2_attention` does all that it does at every step of
a pipeline: clusters from the last centroids, selection, probe rows, attention with stand-ins, the inverse permutation.
Dense attention is torch's `scaled_dot_product_attention`, and chunked products with a softmax between; each round
times both and all others in turn, and ratios are to the faster one of the same round.

"attend" is `Backend.attend` alone. Its ideal is the time of the same backend with everything kept, times the density.
"clustering" is the assignment and sorting of queries and keys and the new centroids. The numbers of tokens tell from
where on it pays: ``min_tokens`` of the backend. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rows import Row, write_rows
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.configs import SVG2Config
from dit_accel.sparse import SVG2State, svg2_attention
from dit_accel.sparse.backends import load_backend
from dit_accel.sparse.clusters import Selection, summarize
from dit_accel.sparse.kmeans import cluster

DENSITY, TOLERANCE, SEARCH_ROUNDS, WARM_UP = 0.30, 0.01, 12, 2
ROWS = 128  # queries at a time, in chunked dense attention
GROUPS, DRIFT = 48, 0.1
CONFIG = SVG2Config(min_tokens=0, min_kept_ratio=0.0, backend="torch")
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


def find_top_p(tokens: Tokens) -> float:
    """The ``top_p`` that comes closest to the density."""
    low, high = 0.0, 1.0
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        density = svg2_attention(*tokens, replace(CONFIG, top_p=middle))[1].density
        if abs(density - DENSITY) < TOLERANCE:
            break
        low, high = (middle, high) if density < DENSITY else (low, middle)
    return middle


class Bench:
    """Everything that is timed, on the tokens of one step after another."""

    def __init__(self, num_tokens: int, heads: int, dim: int) -> None:
        self.steps = [make_tokens(num_tokens, heads, dim, step) for step in range(4)]
        self.config = replace(CONFIG, top_p=find_top_p(self.steps[0]))
        self.backend = load_backend(self.config.backend, torch.device("cpu"))
        self.state, self.scale = SVG2State(), dim**-0.5
        for tokens in self.steps:
            self.info = svg2_attention(*tokens, self.config, state=self.state)[1]
        assert self.state.query is not None and self.state.key is not None and self.state.kept is not None
        pseudo = summarize(*self.steps[0][1:], self.state.key)
        self.selection = Selection(self.state.query, self.state.key, self.state.kept, pseudo)
        self.everything = replace(self.selection, kept=torch.ones_like(self.state.kept), pseudo=None)
        self.density = float(self.selection.pairs().sum()) / (heads * num_tokens**2)

    def clustering(self, tokens: Tokens) -> None:
        """What a warm step spends on k-means."""
        for x, centroids in zip(tokens, (self.state.query_centroids, self.state.key_centroids), strict=False):
            assert centroids is not None
            cluster(x, centroids, self.config.kmeans_iters_step, self.backend)

    def round(self, index: int) -> dict[str, float]:
        """Seconds of each, in turn; the order is turned round every other time."""
        tokens = self.steps[index % len(self.steps)]
        calls: dict[str, Callable[[], object]] = {
            "sdpa": lambda: sdpa(*tokens),
            "chunked": lambda: chunked(*tokens),
            "svg2": lambda: svg2_attention(*tokens, self.config, state=self.state),
            "attend": lambda: self.backend.attend(*tokens, self.selection, self.scale),
            "attend_all": lambda: self.backend.attend(*tokens, self.everything, self.scale),
            "clustering": lambda: self.clustering(tokens),
        }
        order = list(calls) if index % 2 else list(reversed(calls))
        return {name: seconds(calls[name]) for name in order}


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(num_tokens: int, threads: int, args: argparse.Namespace) -> Row:
    """Medians over the rounds."""
    torch.set_num_threads(threads)
    bench = Bench(num_tokens, args.heads, args.head_dim)
    rounds = [bench.round(index) for index in range(args.rounds + WARM_UP)][WARM_UP:]
    dense = [min(found["sdpa"], found["chunked"]) for found in rounds]
    speedups = [best / found["svg2"] for best, found in zip(dense, rounds, strict=True)]

    def median(ratio: Callable[[dict[str, float], float], float]) -> float:
        return statistics.median(ratio(found, best) for found, best in zip(rounds, dense, strict=True))

    figures = {
        "ratio_p20": statistics.quantiles(speedups, n=5)[0],
        "ratio_p80": statistics.quantiles(speedups, n=5)[3],
        "speedup_to_sdpa": median(lambda found, _: found["sdpa"] / found["svg2"]),
        "attend_speedup": median(lambda found, best: best / found["attend"]),
        "attend_share_of_ideal": median(lambda found, _: found["attend_all"] * bench.density / found["attend"]),
        "clustering_share_of_dense": median(lambda found, best: found["clustering"] / best),
        **{f"{name}_ms": 1e3 * statistics.median(found[name] for found in rounds) for name in rounds[0]},
    }
    return Row(
        "svg2_speed",
        "dit_accel, backend torch",
        shapes={"tokens": num_tokens, "heads": args.heads, "head_dim": args.head_dim},
        dtype="bfloat16",
        budget={"density": bench.density},
        ratio=statistics.median(speedups),
        setting={"threads": threads, "rounds": args.rounds},
        figures=figures,
    )


def main() -> None:
    """Measure and print a row for each number of tokens and of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [measure(num_tokens, threads, args) for threads in args.threads for num_tokens in args.tokens]
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
