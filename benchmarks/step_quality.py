"""Caches of steps at an equal number of computed steps on the demo model: how near each comes to the full run.

    OMP_NUM_THREADS=1 python benchmarks/step_quality.py [--budgets 25 20 17 14] [--seeds 101 102] [--only NAME ...]
        [--schedules FILE.json ...] [--out FILE]

``results/step_quality_rivals.json`` is that with ``--seeds 101``: eight videos.

Needs ``pip install cache-dit``. Each rival's threshold is searched, on prompts that are not held out, so that it
computes at least the budget's steps and as few as possible. Then all run on held-out prompts, one after the other for
each video. A computed step is one in which block 6 of 12 runs, counted by a hook inside it, the same for all; the
figure is the mean over both CFG branches. ``--schedules`` adds schedule files, run as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rivals import NUM_STEPS, ExactRival, Rival, all_rivals
from rows import Row, demo_row, write_rows
from torch import Tensor

from dit_accel import DEMO_INPUTS, CacheSchedule, LeMiCaConfig, enable_acceleration, load_demo_pipeline
from dit_accel._diffusers import DenoiseClock
from dit_accel.quality.metrics import METRICS, check_metrics
from dit_accel.showcase import HELD_OUT_PROMPTS

BRANCHES = 2
SHORT_STEPS = 6  # of the run that shows that a rival has left nothing behind
SEARCH_PROMPTS = (
    "a red three moving left on black",
    "a cyan eight spinning on gray",
    "a yellow five growing on navy",
    "a white two bouncing on black",
)
SEARCH_SEED = 0
FIGURES = {"psnr_db": "psnr", "psnr_moving_db": "psnr_moving", "ssim": "ssim", "st_lpips": "st_lpips"}


@dataclass
class Bench:
    """The pipeline, and what a run of it gives."""

    pipe: Any
    block_calls: int = 0

    def run(self, prompt: str, seed: int, output: str = "pt", num_steps: int = NUM_STEPS) -> tuple[Any, float, float]:
        """Video [T, C, H, W] or latents, seconds of the denoising loop, computed steps a branch."""
        self.block_calls = 0
        with DenoiseClock(self.pipe) as clock:
            frames = self.pipe(
                prompt=prompt,
                num_inference_steps=num_steps,
                generator=torch.Generator().manual_seed(seed),
                output_type=output,
                **DEMO_INPUTS,
            ).frames
        return frames[0], clock.seconds, self.block_calls / BRANCHES

    def note(self, *_: Any) -> None:
        self.block_calls += 1

    def profile(self) -> Any:
        """A full run of the first search video."""
        return self.run(SEARCH_PROMPTS[0], SEARCH_SEED, "latent")

    def short(self) -> Tensor:
        """Latents of a short run."""
        return self.run(SEARCH_PROMPTS[0], SEARCH_SEED, "latent", SHORT_STEPS)[0]

    def steps_at(self, rival: Rival, value: Any) -> float:
        """Computed steps a branch, mean over the search videos."""
        computed = []
        for prompt in SEARCH_PROMPTS[: 1 if rival.is_data_free else None]:
            with rival.enable(self.pipe, value):
                computed.append(self.run(prompt, SEARCH_SEED, "latent")[2])
        print(f"search {rival.name}: {value} -> {computed}", flush=True)
        return statistics.fmean(computed)


@dataclass
class Subject:
    """A rival with the value that was chosen for a budget, and its runs: figures, speed-up, computed steps."""

    rival: Rival
    value: Any
    budget: int
    note: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, float]] = field(default_factory=list)

    def row(self) -> Row:
        """Means over the videos; the error is the standard error of the mean."""
        columns = {name: [run[name] for run in self.runs] for name in self.runs[0]}
        means = {name: statistics.fmean(column) for name, column in columns.items()}
        error = statistics.stdev(columns["psnr_db"]) / len(self.runs) ** 0.5 if len(self.runs) > 1 else 0.0
        return demo_row(
            question="step_quality",
            subject=self.rival.name,
            setting={**self.rival.describe(self.value), **self.note},
            budget={
                "target_steps": self.budget,
                "computed_steps": means["computed_steps"],
                "num_steps": NUM_STEPS,
            },
            ratio=statistics.median(columns["speedup"]),
            quality={
                "psnr_db": means["psnr_db"],
                "psnr_standard_error_db": error,
                **{name: means[name] for name in list(FIGURES)[1:]},
                "videos": len(self.runs),
            },
        )


@contextlib.contextmanager
def scheduled(pipe: Any, schedule: Any) -> Iterator[None]:
    """A schedule of ours, held: a file, or a budget for the uniform one."""
    found = CacheSchedule.uniform(NUM_STEPS, schedule) if isinstance(schedule, int) else schedule
    with enable_acceleration(pipe, LeMiCaConfig(found)):
        yield


def chosen_subjects(bench: Bench, rivals: list[Rival], budgets: list[int]) -> list[Subject]:
    """Search every rival's value for every budget, and make sure that it leaves nothing behind."""
    untouched = bench.short()
    subjects = []
    for rival in rivals:
        known: dict[Any, float] = {}
        for budget in budgets:
            value = rival.choose(budget, partial(bench.steps_at, rival), known)
            short_of = known.get(value, budget) > budget + 1
            note = {"note": f"cannot reach the budget: computes {known[value]:g} steps or more"} if short_of else {}
            subjects.append(Subject(rival, value, budget, note))
        with rival.enable(bench.pipe, value):
            bench.profile()
        assert torch.equal(bench.short(), untouched), f"{rival.name} has left something behind"
    return subjects


def measure(bench: Bench, subjects: list[Subject], prompt: str, seed: int) -> None:
    """One video: the full run, then every subject; one that repeats another's value takes over its run."""
    reference, full_seconds, full_steps = bench.run(prompt, seed)
    assert full_steps == NUM_STEPS
    done: dict[tuple[str, str], dict[str, float]] = {}
    for subject in subjects:
        key = (subject.rival.name, repr(subject.value))
        if key not in done:
            with subject.rival.enable(bench.pipe, subject.value):
                frames, seconds, computed = bench.run(prompt, seed)
            figures = {name: METRICS[metric](reference, frames) for name, metric in FIGURES.items()}
            done[key] = {**figures, "speedup": full_seconds / seconds, "computed_steps": computed}
            print(f"{subject.rival.name:36} {subject.budget} {prompt}, {seed}: {done[key]}", flush=True)
        subject.runs.append(done[key])


def main() -> None:
    """Search, run, print a row for each method and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[25, 20, 17, 14])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--prompts", type=int, default=len(HELD_OUT_PROMPTS))
    parser.add_argument("--only", nargs="*", metavar="NAME", help="rivals by name, or by a part of it; none: no rival")
    parser.add_argument("--schedules", nargs="*", default=[], metavar="FILE", help="schedule files to run as well")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    check_metrics(tuple(FIGURES.values()))
    pipe = load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    bench = Bench(pipe)
    pipe.transformer.blocks[6].ffn.net[0].register_forward_hook(bench.note)
    rivals = []
    if args.only != []:
        rivals = [ExactRival("uniform", scheduled, "steps"), *all_rivals(pipe, bench.profile)]
    if args.only:
        rivals = [rival for rival in rivals if any(name in rival.name for name in args.only)]
    subjects = chosen_subjects(bench, rivals, args.budgets)
    for file in args.schedules:
        subjects.append(Subject(ExactRival(Path(file).stem, scheduled, "file"), file, CacheSchedule.load(file).budget))
    for seed, prompt in product(args.seeds, HELD_OUT_PROMPTS[: args.prompts]):
        measure(bench, subjects, prompt, seed)
        rows = [subject.row() for subject in subjects]  # after each video, so that a run that is cut short leaves some
        write_rows(rows, args.out)


if __name__ == "__main__":
    main()
