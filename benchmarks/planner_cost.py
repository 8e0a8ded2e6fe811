"""What lazy profiles cost, and how often they plan as the exhaustive one does: demo model, 50 steps, edges up to 8.

    python benchmarks/planner_cost.py [--out benchmarks/results/planner_cost.json]

The errors of all 315 edges were measured once (``offline_profiles/digits-wan-hold/50-steps.graph.json``); the residual
model comes from the trajectories of the same prompts. The search is driven with these errors in place of rollouts, so
it asks for what it would roll out, and each is counted with its denoiser steps. "agreement" is the share of budgets
whose schedule is exactly the exhaustive one; "worst_excess" is how much larger the largest error on a path is than
that of the exhaustive path, in the worst budget. No denoiser runs, so this takes a minute.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from rows import Row, demo_row, write_rows

from dit_accel import ErrorGraph
from dit_accel.profiling.planner import plan_all
from dit_accel.profiling.request import ProfileJob
from dit_accel.profiling.rollout import Batch, Rollout
from dit_accel.profiling.search import estimate_search, lazy_search

PROFILES = Path(__file__).parents[1] / "offline_profiles"
BUDGETS = range(10, 31)
SAFETIES = (1.0, 1.5, 2.0, 2.5, 3.0)


def drive(job: ProfileJob, exact: ErrorGraph, lazy: ErrorGraph) -> tuple[ErrorGraph, int, int]:
    """The graph that a lazy job ends with, its denoiser steps a video, and its rollouts."""
    model = lazy.model
    assert model is not None
    search = lazy_search(job, replace(model, gains=()))
    wanted: Sequence[Rollout] = next(search)
    steps, asked = job.num_steps, 0
    try:
        while True:
            steps += sum(rollout.cost_steps(job.num_steps) for rollout in wanted)
            asked += len(wanted)
            wanted = search.send({rollout: exact.edges[rollout.edge] for rollout in wanted})
    except StopIteration as end:
        edges = {edge: error for edge, (_, error) in end.value.best().items()}
        return ErrorGraph(job.num_steps, edges), steps, asked


def largest(graph: ErrorGraph, path: tuple[int, ...]) -> float:
    """The largest error on a path."""
    return max(graph.error(i, j) or 0.0 for i, j in pairwise(path))


def row(subject: str, job: ProfileJob, exact: ErrorGraph, lazy: ErrorGraph) -> Row:
    """Drive one job and compare its plans."""
    whole = job.num_steps + sum(rollout.cost_steps(job.num_steps) for rollout in job.rollouts())
    graph, steps, asked = drive(job, exact, lazy)
    found, wanted = graph.plan_all(), exact.plan_all()
    pairs = [(found[budget].compute_steps, wanted[budget].compute_steps) for budget in job.budgets]
    return demo_row(
        question="planner_cost",
        subject=subject,
        setting={"budgets": f"{job.budgets[0]} to {job.budgets[-1]}", "safety": job.safety},
        figures={
            "budgets": len(pairs),
            "agreement": sum(a == b for a, b in pairs) / len(pairs),
            "worst_excess": max(largest(exact, a) / largest(exact, b) for a, b in pairs) - 1,
            "rollouts": asked,
            "steps": steps,
            "share_of_exhaustive": steps / whole,
            "generations_a_video": steps / job.num_steps,
        },
    )


def estimate_row(job: ProfileJob, lazy: ErrorGraph) -> Row:
    """The steps of a profile of one video that rolls out nothing but what the gains take."""
    assert lazy.model is not None
    wanted = next(estimate_search(replace(job, mode="estimate"), replace(lazy.model, gains=())))
    steps = job.num_steps + sum(rollout.cost_steps(job.num_steps) for rollout in wanted)
    return demo_row(
        question="planner_cost",
        subject="estimate",
        setting={"videos": 1},
        figures={"rollouts": len(wanted), "steps": steps, "generations_a_video": steps / job.num_steps},
    )


def solve_row(num_steps: int, longest: int) -> Row:
    """Seconds to plan every budget of a random graph."""
    chance = random.Random(0)
    edges = {
        (i, j): chance.random() for i in range(num_steps) for j in range(i + 2, min(i + longest, num_steps - 1) + 1)
    }
    graph = ErrorGraph(num_steps, edges)
    begin = time.perf_counter()
    plans = plan_all(graph)
    return Row(
        question="planner_cost",
        subject="solve every budget",
        setting={"num_steps": num_steps, "max_segment": longest},
        figures={"seconds": time.perf_counter() - begin, "budgets": len(plans)},
    )


def main() -> None:
    """Drive all jobs, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    exact = ErrorGraph.load(PROFILES / "digits-wan-hold" / "50-steps.graph.json")
    lazy = ErrorGraph.load(PROFILES / "digits-wan" / "50-steps.graph.json")
    job = ProfileJob((Batch(("prompt",), 0),), exact.num_steps, 8, {}, "lazy", budgets=tuple(BUDGETS))
    rows = [row("all budgets", replace(job, safety=safety), exact, lazy) for safety in SAFETIES]
    rows += [row(f"budget {budget}", replace(job, budgets=(budget,)), exact, lazy) for budget in BUDGETS]
    rows += [estimate_row(job, lazy)]
    rows += [solve_row(100, 8), solve_row(100, 99)]
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
