"""Predicted against measured error of whole schedules, over the budgets; and the picture of the demo's error graph.

    OMP_NUM_THREADS=1 python benchmarks/planner_curve.py [--out FILE]
        [--plot offline_profiles/digits-wan/error-graph.png]

Every schedule of the committed graph runs on the videos that were profiled, so nothing but the prediction is tested:
the sum over a path's edges, against the mean L1 of the final latents.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rows import demo_row, write_rows

from dit_accel import ErrorGraph
from dit_accel.profiling.job_file import JobFile
from dit_accel.profiling.planner import predicted_error
from dit_accel.profiling.request import checked_job
from dit_accel.profiling.rollout import BatchRunner

PROFILES = Path(__file__).parents[1] / "offline_profiles"
SHOWN = (25, 20, 17, 14)


def main() -> None:
    """Run every budget, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(range(8, 33, 2)))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    file = JobFile.load(PROFILES / "jobs" / "digits-wan.toml")
    job, graph = (
        checked_job(**file.profile_arguments()),
        ErrorGraph.load(PROFILES / "digits-wan" / "50-steps.graph.json"),
    )
    pipe = file.load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    plans = graph.plan_all()
    measured: dict[int, list[float]] = {budget: [] for budget in args.budgets}
    with tempfile.TemporaryDirectory() as folder:
        for index, batch in enumerate(job.batches):
            runner = BatchRunner(pipe, batch, job.num_steps, job.inputs)
            runner.record(Path(folder) / f"{index}.safetensors")
            for budget in args.budgets:
                measured[budget] += runner.errors_of(plans[budget])
    means = {budget: sum(errors) / len(errors) for budget, errors in measured.items()}
    rows = [
        demo_row(
            question="planner_curve",
            subject=f"budget {budget}",
            setting={"compute_steps": list(plans[budget].compute_steps)},
            budget={"computed_steps": budget, "num_steps": graph.num_steps},
            quality={
                "predicted_l1": predicted_error(graph, plans[budget].compute_steps),
                "measured_l1": means[budget],
                "videos": len(measured[budget]),
            },
        )
        for budget in args.budgets
    ]
    write_rows(rows, args.out)
    if args.plot is not None:
        graph.plot(args.plot, {f"{budget} steps": plans[budget] for budget in SHOWN}, means)


if __name__ == "__main__":
    main()
