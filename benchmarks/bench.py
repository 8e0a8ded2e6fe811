"""Every question of the benchmarks in one go, about a quarter of an hour on two cores: `make bench`.

    python benchmarks/bench.py [--only NAME ...] [--out FOLDER]

Needs ``pip install dit-accel[rivals]``. What is timed runs alone; what is only counted or compared runs beside others.
Each benchmark writes its rows into the folder, ``benchmarks/results`` unless told otherwise; one that fails is named
at the end, and the exit code says so. Longer ones, such as the reports over 16 videos, are run by themselves.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """A file of this folder with its arguments."""

    name: str
    arguments: tuple[str, ...] = ()

    def run(self, folder: Path) -> tuple[str, int, float]:
        """Its name, exit code and seconds. What it prints comes at once, so that two do not mix."""
        script, out = (str(place / f"{self.name}.{ending}") for place, ending in ((HERE, "py"), (folder, "json")))
        command = [sys.executable, script, *self.arguments, "--out", out]
        begin = time.monotonic()
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        seconds = time.monotonic() - begin
        rows = (line for line in done.stdout.splitlines() if "   (" in line)
        shown = done.stdout if done.returncode else "\n".join(rows)
        print(f"== {self.name}: {seconds:.0f} s, exit code {done.returncode}\n{shown}", flush=True)
        return self.name, done.returncode, seconds


# One line after the other; what stands in one line runs at the same time, which no clock may be asked of.
LINES: tuple[tuple[Benchmark, ...], ...] = (
    (Benchmark("svg2_speed"),),
    (Benchmark("cache_overhead"),),
    (Benchmark("cost_growth"),),
    (Benchmark("cache_memory"), Benchmark("svg2_error")),
    (Benchmark("planner_cost"),),
    (Benchmark("step_quality", ("--prompts", "4")),),
    (Benchmark("equal_quality"),),
)


def chosen(only: Sequence[str] | None) -> list[list[Benchmark]]:
    """The lines, with the benchmarks that were asked for."""
    return [[each for each in line if not only or each.name in only] for line in LINES]


def main() -> int:
    """Run the lines; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [each.name for line in LINES for each in line]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    found: list[tuple[str, int, float]] = []
    for line in chosen(args.only):
        with ThreadPoolExecutor(max(len(line), 1)) as pool:
            found += pool.map(lambda benchmark: benchmark.run(args.out), line)
    failed = [name for name, code, _ in found if code]
    minutes = (time.monotonic() - begin) / 60
    print(f"{len(found)} benchmarks in {minutes:.1f} minutes; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
