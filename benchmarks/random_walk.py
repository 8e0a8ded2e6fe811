"""Is a pipeline right after anything that users may do to it, in any order?

    OMP_NUM_THREADS=1 python benchmarks/random_walk.py [--steps 500] [--seed 0] [--pipeline demo]
        [--out benchmarks/results/random_walk.json]

A random walk (seeded) of enabling, disabling, calls, aborted calls, offload, other sizes, steps, schedulers and
guidance, copies, and what else is in `walking.actions`, on pipelines that share a denoiser. Every finished call is
compared, to the bit, with that of a pipeline made for it alone, and so are its stats; while nothing is accelerated,
nothing of dit_accel may hang on the pipeline. Where something does not hold, the actions up to there are printed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from rows import Row, write_rows
from transformers.utils import logging as transformers_logging
from walking.actions import ACTIONS, Action, parameters_of
from walking.calls import ABORTS
from walking.checks import alive
from walking.requests import SUBJECTS, Fresh
from walking.world import World


def walk(world: World, steps: int, seed: int) -> None:
    """Take the steps, and end without acceleration; what goes wrong is raised with all that led there."""
    rng, taken = random.Random(seed), []
    weights = [weight for weight, _ in ACTIONS.values()]
    try:
        for _ in range(steps):
            (name,) = rng.choices(list(ACTIONS), weights)
            values = {key: rng.choice(each) for key, each in parameters_of(name, world.subject).items()}
            taken.append((name, values))
            world.do(taken[-1])
        world.end()
    except BaseException as error:
        raise SystemExit(f"seed {seed}, {error!r} after {len(taken)} steps:\n{shown(taken)}") from error


def shown(actions: list[Action]) -> str:
    """One action a line, so that they can be done again."""
    return "\n".join(f"    {action!r}," for action in actions)


def rows_of(counts: Counter[str], subject: Any, steps: int, seed: int, seconds: float, left: list[str]) -> list[Row]:
    """What was compared, and what was done how often. All were identical, or there would be no rows."""
    setting = {"steps": steps, "seed": seed}

    def row(name: str, figures: dict[str, float]) -> Row:
        return Row("random_walk", name, pipeline=subject.name, setting=setting, figures=figures)

    compared = counts["runs compared"]
    plain = compared - counts["accelerated runs compared"]
    return [
        row(
            "all",
            {
                "runs_compared": compared,
                "runs_bit_identical": compared,
                "accelerated_runs_compared": counts["accelerated runs compared"],
                "plain_runs_compared": plain,
                "calls_refused": counts["calls refused"],
                "objects_left": len(left),
                "seconds": seconds,
            },
        ),
        row("actions", {name: counts[name] for name in ACTIONS}),
        row("aborted calls", {name: counts[name] for name in ABORTS}),
    ]


def main() -> None:
    """Walk, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pipeline", choices=SUBJECTS, default="demo")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    subject, start = SUBJECTS[options.pipeline](), time.perf_counter()
    world = World(subject, Fresh(subject))
    walk(world, options.steps, options.seed)
    counts = world.counts
    del world
    left = alive()
    rows = rows_of(counts, subject, options.steps, options.seed, time.perf_counter() - start, left)
    write_rows(rows, options.out)
    if left:
        raise SystemExit(f"{len(left)} objects of accelerations that are over are alive: {Counter(left)}")


if __name__ == "__main__":
    main()
