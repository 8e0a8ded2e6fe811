"""At an equal number of computed steps: how near is each cache to the full run, and how much sooner is it done?

    python benchmarks/step_quality.py [--budgets 25 20 17 14 10] [--prompts 8] [--seeds 101] [--workers 2]
        [--only NAME ...] [--schedules FILE.json ...] [--out benchmarks/results/step_quality.json]

Needs ``pip install dit-accel[rivals]``. Presets and rivals run on held-out prompts, one after the other for each
video, the rivals with the thresholds that ``tune_rivals.py`` found on others. Before each budget's runs the full run
is made anew, for the ratios of times. ``--schedules`` adds schedule files, run as they are; ``--only`` without a name
leaves out everything else. Workers are processes of one thread that share the videos.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from demo_bench import NUM_STEPS, SEARCH_PROMPTS, SEARCH_SEED, Bench
from rivals import ExactRival, Rival, exact_rivals, searched_rivals
from rows import Row, demo_row, write_rows
from tune_rivals import BUDGETS, tuned_values

from dit_accel import CacheSchedule, enable_acceleration
from dit_accel.quality.metrics import check_metrics
from dit_accel.showcase import HELD_OUT_PROMPTS

SHORT_STEPS = 6  # of the run that shows that a method has left nothing behind
PRESETS = {25: "slow", 20: "medium", 17: "fast", 14: "ultra", 10: "turbo"}


class Subject(NamedTuple):
    """A method with the value that it has for a budget."""

    rival: Rival
    value: Any
    budget: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the others, also in another process."""
        return self.rival.name, self.budget


@dataclass(frozen=True)
class Task:
    """The videos of one worker, and what runs on each."""

    videos: Sequence[tuple[str, int]]
    budgets: Sequence[int]
    only: Sequence[str] | None
    schedules: Sequence[str] = field(default_factory=tuple)

    def subjects(self, bench: Bench) -> list[Subject]:
        """Everything that runs, by budget."""
        rivals = [*exact_rivals(), *searched_rivals(bench.pipe, bench.calibration_run)] if self.only != [] else []
        tuned = tuned_values()
        lemica = ExactRival("dit_accel lemica", enable_acceleration, "preset", pick=lambda n: f"lemica-{PRESETS[n]}")
        found = []
        for budget, rival in product(self.budgets, [lemica, *rivals] if rivals else []):
            value = rival.pick(budget) if isinstance(rival, ExactRival) else tuned[rival.name, budget]
            if not self.only or any(name in rival.name for name in self.only):
                found.append(Subject(rival, value, budget))
        for file in self.schedules:
            schedule = CacheSchedule.load(file)
            polish = schedule.provenance.get("polish", {}).get("rollouts", 0)
            rival = ExactRival(Path(file).stem, enable_acceleration, "file", {"polish_rollouts": polish})
            found.append(Subject(rival, file, schedule.budget))
        return found


def measure(task: Task) -> dict[tuple[str, int], tuple[dict[str, Any], list[dict[str, float]]]]:
    """In a worker: each subject's setting, and what every run of it gave."""
    bench = Bench.load()
    subjects = task.subjects(bench)
    check_untouched(bench, {subject.rival.name: subject for subject in subjects}.values())
    runs: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for prompt, seed in task.videos:
        reference = bench.run(prompt, seed)
        for budget in dict.fromkeys(subject.budget for subject in subjects):
            full = bench.run(prompt, seed, output="latent")
            assert full.computed_steps == NUM_STEPS
            for subject in (subject for subject in subjects if subject.budget == budget):
                with subject.rival.enable(bench.pipe, subject.value):
                    made = bench.run(prompt, seed)
                found = {"ratio": full.seconds / made.seconds, "computed_steps": made.computed_steps}
                runs[subject.key].append({**made.figures(reference.output), **found})
        print(f"{prompt}, {seed}: {len(subjects)} runs compared", flush=True)
    return {subject.key: (subject.rival.describe(subject.value), runs[subject.key]) for subject in subjects}


def check_untouched(bench: Bench, subjects: Iterable[Subject]) -> None:
    """Every method leaves the pipeline as it was, so that none is measured with what another left behind."""
    short = partial(bench.run, SEARCH_PROMPTS[0], SEARCH_SEED, output="latent", num_steps=SHORT_STEPS)
    untouched = short().output
    for subject in subjects:
        with subject.rival.enable(bench.pipe, subject.value):
            bench.calibration_run()
        if not torch.equal(short().output, untouched):
            raise SystemExit(f"{subject.rival.name} has left something behind: what runs after it is not its own.")


def row(key: tuple[str, int], setting: dict[str, Any], runs: Sequence[dict[str, float]]) -> Row:
    """Means over the videos, the ratio a median; the error is the standard error of the mean.

    Of ST-LPIPS also the median: one video can be most of the mean.
    """
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    ratios, computed = columns.pop("ratio"), columns.pop("computed_steps")
    quality = {name: statistics.fmean(column) for name, column in columns.items()}
    quality["st_lpips_median"] = statistics.median(columns["st_lpips"])
    error = statistics.stdev(columns["psnr_db"]) / len(runs) ** 0.5 if len(runs) > 1 else 0.0
    subject, budget = key
    return demo_row(
        "step_quality",
        subject,
        budget={"target_steps": budget, "computed_steps": statistics.fmean(computed), "num_steps": NUM_STEPS},
        ratio=statistics.median(ratios),
        quality={**quality, "psnr_standard_error_db": error, "videos": len(runs)},
        setting=setting,
    )


def main() -> None:
    """Share the videos out, collect the runs, write a row for each method and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--prompts", type=int, default=len(HELD_OUT_PROMPTS))
    parser.add_argument("--only", nargs="*", metavar="NAME", help="methods by a part of their name; none: no method")
    parser.add_argument("--schedules", nargs="*", default=[], metavar="FILE", help="schedule files to run as well")
    parser.add_argument("--workers", type=int, default=2, help="processes; 1 for steadier times")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    check_metrics(("psnr", "psnr_moving", "ssim", "st_lpips"))
    videos = list(product(HELD_OUT_PROMPTS[: args.prompts], args.seeds))
    tasks = [Task(videos[k :: args.workers], args.budgets, args.only, args.schedules) for k in range(args.workers)]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(measure, tasks))
    rows = [
        row(key, setting, [run for part in parts for run in part[key][1]]) for key, (setting, _) in parts[0].items()
    ]
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
