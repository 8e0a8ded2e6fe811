"""Writes the schedules that ``step_quality.py`` puts beside the presets: other objectives, estimates, polished ones.

    OMP_NUM_THREADS=1 python benchmarks/planner_schedules.py FOLDER [--polish 20] [--workdir DIR]
    OMP_NUM_THREADS=1 python benchmarks/step_quality.py --only --seeds 101 --schedules FOLDER/*.json

``sum2-N``: the committed graph with the sum of squares. ``estimate-N``: estimated from one prompt, no edge rolled out.
``estimatehold-N``: from four prompts, held. ``planned-N`` and ``polished-N``: the default plan of tight budgets,
before and after whole runs. ``lemica-*``, ``planned-*`` and ``hold-*``: the presets, and the schedules of the paper's
method.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from dit_accel import DEMO_INPUTS, ErrorGraph, plan, profile
from dit_accel.profiling.job_file import JobFile
from dit_accel.profiling.polish import polish
from dit_accel.profiling.request import checked_job

PROFILES = Path(__file__).parents[1] / "offline_profiles"
BUDGETS, TIGHT_BUDGETS = (25, 20, 17, 14), (14, 10)


def main() -> None:
    """Plan and write all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--polish", type=int, default=0, help="whole runs for each tight budget; 0 leaves these out")
    parser.add_argument("--workdir", type=Path, help="of the profile, so that its trajectories are not run again")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file = JobFile.load(PROFILES / "jobs" / "digits-wan.toml")
    graph = ErrorGraph.load(PROFILES / "digits-wan" / "50-steps.graph.json")
    pipe = file.load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    prompts, common = file.profile["prompts"], {"num_inference_steps": 50, "max_segment": 8, "mode": "estimate"}
    one = profile(pipe, prompts[:1], **common, **DEMO_INPUTS)
    four = profile(pipe, prompts, forecasts=("hold",), **common, **DEMO_INPUTS)
    for budget in BUDGETS:
        plan(graph, budget, objective="sum-power", power=2.0).save(args.folder / f"sum2-{budget}.json")
        plan(one, budget).save(args.folder / f"estimate-{budget}.json")
        plan(four, budget).save(args.folder / f"estimatehold-{budget}.json")
    for source, prefix in (("digits-wan", ""), ("digits-wan-hold", "hold-")):
        for path in [*(PROFILES / source).glob("lemica-*.json"), *(PROFILES / source).glob("planned-*.json")]:
            shutil.copy(path, args.folder / (prefix + path.name.removeprefix("lemica-") if prefix else path.name))
    job = checked_job(**file.profile_arguments())
    for budget in TIGHT_BUDGETS if args.polish else ():
        schedule = plan(graph, budget)
        schedule.save(args.folder / f"planned-{budget}.json")
        polished = polish(pipe, job, graph, schedule, rollouts=args.polish, workdir=args.workdir)
        polished.save(args.folder / f"polished-{budget}.json")


if __name__ == "__main__":
    main()
