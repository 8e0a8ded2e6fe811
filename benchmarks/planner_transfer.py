"""A profile of 50 steps resampled to another step count or shift, against a fresh profile of it; demo model.

    OMP_NUM_THREADS=1 python benchmarks/planner_transfer.py [--steps 30] [--shift 3.0] [--workdir DIR] [--out FILE]

Both are planned for the same budgets. The fresh profile is a lazy one for exactly these; the resampled one is made
from the committed graph alone. Quality on held-out prompts, against the same seed's full run of that many steps.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

from rows import demo_row, quality_figures, write_rows

from dit_accel import DEMO_INPUTS, ErrorGraph, LeMiCaConfig, evaluate, plan, profile
from dit_accel.profiling.distributed import process_pool
from dit_accel.profiling.job_file import JobFile
from dit_accel.showcase import HELD_OUT_PROMPTS

PROFILES = Path(__file__).parents[1] / "offline_profiles"
SHARES = (0.5, 0.4, 0.34, 0.28)  # of the steps are computed, as in the presets


def load(shift: float) -> Any:
    """The demo pipeline with another shift of the noise levels."""
    pipe = JobFile.load(PROFILES / "jobs" / "digits-wan.toml").load_pipeline()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift=shift)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Profile, resample, run both, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    budgets = [round(share * args.steps) for share in SHARES]
    pipe, job = load(args.shift), JobFile.load(PROFILES / "jobs" / "digits-wan.toml")
    with (
        tempfile.TemporaryDirectory() as temporary,
        process_pool(functools.partial(load, args.shift), args.workers) as executor,
    ):
        fresh = profile(
            pipe,
            job.profile["prompts"],
            num_inference_steps=args.steps,
            seeds=job.profile["seeds"],
            max_segment=job.profile["max_segment"],
            mode="lazy",
            budgets=budgets,
            workdir=args.workdir or temporary,
            executor=executor,
            **DEMO_INPUTS,
        )
    committed = ErrorGraph.load(PROFILES / "digits-wan" / "50-steps.graph.json")
    graphs = {"fresh": fresh, "resampled": committed.resample(args.steps, shift=args.shift)}
    configs = {
        f"{name} {budget}": LeMiCaConfig(plan(graph, budget)) for budget in budgets for name, graph in graphs.items()
    }
    report = evaluate(
        pipe,
        configs,
        HELD_OUT_PROMPTS,
        seeds=args.seeds,
        metrics=("psnr", "ssim"),
        num_inference_steps=args.steps,
        **DEMO_INPUTS,
    )
    rows = [
        demo_row(
            question="planner_transfer",
            subject=found.name,
            setting={
                "shift": args.shift,
                "compute_steps": list(configs[found.name].cache_schedule.compute_steps),
                "profiling_steps": fresh.rollout_steps if found.name.startswith("fresh") else 0,
            },
            budget={"computed_steps": found.computed_steps, "num_steps": args.steps},
            quality=quality_figures(found),
        )
        for found in report.rows
    ]
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
