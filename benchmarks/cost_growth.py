"""How do costs grow: of a reused call with the tokens, of a profile with steps and videos, of planning with steps?

    python benchmarks/cost_growth.py [--tokens 81 324 1296] [--out benchmarks/results/cost_growth.json]

Calls are timed, on one thread. The rollouts of a profile are counted: exact ones from the job, lazy ones by the search
itself, driven with the measured errors of ``offline_profiles/digits-wan-hold``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from cache_overhead import compare, ours
from planner_cost import BUDGETS, PROFILES, drive, solve_row
from rows import Row, write_rows

from dit_accel import ErrorGraph
from dit_accel.profiling.request import ProfileJob
from dit_accel.profiling.rollout import Batch

LONGEST_EDGE = 8


def token_rows(all_tokens: list[int], pairs: int) -> list[Row]:
    """Milliseconds of computed and reused calls."""
    rows = []
    for tokens in all_tokens:
        found = compare(ours, 0, tokens, pairs)
        milliseconds = {f"{kind}_call_ms": figures["call_ms"] for kind, figures in found.items()}
        shapes = {"tokens": tokens, "blocks": 12, "width": 128}
        rows.append(
            Row(
                "cost_growth",
                "call",
                pipeline="Wan, random weights",
                shapes=shapes,
                ratio=milliseconds["computed_call_ms"] / milliseconds["reused_call_ms"],
                setting={"threads": 1},
                figures=milliseconds,
            )
        )
    return rows


def profile_rows() -> list[Row]:
    """Full generations of a profile: exact by steps and videos, lazy by budgets and videos."""
    rows = []
    for num_steps in (25, 50, 100):
        for videos in (1, 4, 16):
            job = ProfileJob(_batches(videos), num_steps, LONGEST_EDGE, {}, "exact")
            steps = num_steps + sum(rollout.cost_steps(num_steps) for rollout in job.rollouts())
            rows.append(_profile_row("exact", num_steps, videos, steps))
    exact = ErrorGraph.load(PROFILES / "digits-wan-hold" / "50-steps.graph.json")
    lazy = ErrorGraph.load(PROFILES / "digits-wan" / "50-steps.graph.json")
    job = ProfileJob(_batches(1), 50, LONGEST_EDGE, {}, "lazy", budgets=tuple(BUDGETS))
    for budgets in ((17,), (25, 20, 17, 14), tuple(BUDGETS)):
        steps = drive(replace(job, budgets=budgets), exact, lazy)[1]
        rows.append(_profile_row(f"lazy, {len(budgets)} budgets", 50, 1, steps))
    return rows


def _batches(videos: int) -> tuple[Batch, ...]:
    return tuple(Batch((f"prompt {number}",), 0) for number in range(videos))


def _profile_row(subject: str, num_steps: int, videos: int, steps_a_video: int) -> Row:
    figures = {
        "generations_a_video": steps_a_video / num_steps,
        "generations": videos * steps_a_video / num_steps,
    }
    setting = {"num_steps": num_steps, "videos": videos, "max_segment": LONGEST_EDGE}
    return Row("cost_growth", subject, setting=setting, figures=figures)


def main() -> None:
    """Measure and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[81, 324, 1296])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plans = [replace(solve_row(num_steps, LONGEST_EDGE), question="cost_growth") for num_steps in (25, 50, 100, 200)]
    write_rows([*token_rows(args.tokens, args.pairs), *profile_rows(), *plans], args.out)


if __name__ == "__main__":
    main()
