"""Searches the threshold of every rival that has one, so that it computes as many steps as a budget allows.

    python benchmarks/tune_rivals.py [--budgets 25 20 17 14 10] [--only NAME ...]
        [--out benchmarks/results/tune_rivals.json]

On prompts that are not held out. The value found computes at least the budget's steps on average, and as few as
possible. A search begins at the values that the result has already. ``step_quality.py`` runs what is found here.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from demo_bench import NUM_STEPS, SEARCH_PROMPTS, SEARCH_SEED, Bench
from rivals import Rival, searched_rivals
from rows import Row, demo_row, write_rows

TUNED = Path(__file__).parent / "results" / "tune_rivals.json"
BUDGETS = (25, 20, 17, 14, 10)
ROUNDS, NEAR_STEPS = 6, 0.25
LEAST_THRESHOLD, MOST_THRESHOLD = 1e-4, 10.0


def tuned_values(path: Path = TUNED) -> dict[tuple[str, int], float]:
    """Rival and budget -> threshold, of a committed result."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["subject"], row["budget"]["target_steps"]): row["setting"]["threshold"] for row in rows}


class Search:
    """The thresholds of one rival that were tried, with the computed steps of each."""

    def __init__(self, bench: Bench, rival: Rival) -> None:
        self.bench, self.rival = bench, rival
        self.known: dict[float, float] = {}

    def steps_at(self, threshold: float) -> float:
        """Computed steps a branch, mean over the search videos."""
        threshold = float(f"{threshold:.4g}")
        if threshold not in self.known:
            computed = []
            for prompt in SEARCH_PROMPTS[: 1 if self.rival.is_data_free else None]:
                with self.rival.enable(self.bench.pipe, threshold):
                    computed.append(self.bench.run(prompt, SEARCH_SEED, output="latent").computed_steps)
            self.known[threshold] = statistics.fmean(computed)
            print(f"{self.rival.name}: {threshold} computes {computed}", flush=True)
        return self.known[threshold]

    def threshold_for(self, budget: int, start: float | None) -> float:
        """The threshold that computes at least ``budget`` steps, as few as possible.

        Bisection on a logarithmic scale, steps interpolated between the ends of the bracket. If no threshold gets down
        to the budget, the one that comes nearest.
        """
        low, high = (start, start * 1.2) if start else self.rival.span
        while self.steps_at(low) < budget and low > LEAST_THRESHOLD:
            low /= 2
        while not self._reaches(low, budget) and self.steps_at(high) >= budget and high < MOST_THRESHOLD:
            high *= 4
        for _ in range(ROUNDS):
            high = min((t for t, steps in self.known.items() if steps < budget), default=math.inf)
            low = max(t for t, steps in self.known.items() if steps >= budget and t < high)
            if high == math.inf or self._reaches(low, budget):
                break
            share = min(max((self.known[low] - budget) / (self.known[low] - self.known[high]), 0.2), 0.8)
            self.steps_at(low * (high / low) ** share)
        return min((t for t in self.known if self.known[t] >= budget), key=lambda t: (self.known[t], t))

    def _reaches(self, threshold: float, budget: int) -> bool:
        return budget <= self.steps_at(threshold) <= budget + NEAR_STEPS

    def row(self, budget: int, start: float | None) -> Row:
        """What was found for a budget."""
        threshold = self.threshold_for(budget, start)
        computed = self.known[threshold]
        short = {"note": f"computes {computed:g} steps or more"} if computed > budget + 1 else {}
        return demo_row(
            "tune_rivals",
            self.rival.name,
            budget={"target_steps": budget, "computed_steps": computed, "num_steps": NUM_STEPS},
            setting={"threshold": threshold, **self.rival.setting, **short},
        )


def main() -> None:
    """Search, and write the rows after each rival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--only", nargs="*", metavar="NAME", help="rivals by name, or by a part of it")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench, starts = Bench.load(), tuned_values()
    rows: list[Row] = []
    for rival in searched_rivals(bench.pipe, bench.calibration_run):
        if not args.only or any(name in rival.name for name in args.only):
            search = Search(bench, rival)
            rows += [search.row(budget, starts.get((rival.name, budget))) for budget in args.budgets]
            write_rows(rows, args.out)


if __name__ == "__main__":
    main()
