"""How much does each cache hold while the pipeline runs, and how much when it has returned?

    python benchmarks/cache_memory.py [--budget 20] [--out benchmarks/results/cache_memory.json]

Needs ``pip install dit-accel[rivals]``. Counted is every tensor that Python can reach, storages that are shared once,
at the end of every second step, less the same in the full run; so it is the same count for every method, whatever it
says of itself.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import torch
from demo_bench import SEARCH_PROMPTS, SEARCH_SEED, Bench
from rows import Row, demo_row, write_rows
from step_quality import Subject, Task


def alive_bytes() -> int:
    """Bytes of all tensors."""
    storages = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, torch.nn.Parameter):  # no fake ones
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def held(bench: Bench) -> tuple[list[int], int]:
    """Bytes at the end of every second step, and after the call."""
    found: list[int] = []

    def note(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step % 2:
            found.append(alive_bytes())
        return tensors

    bench.run(SEARCH_PROMPTS[0], SEARCH_SEED, output="latent", callback_on_step_end=note)
    gc.collect()
    return found, alive_bytes()


def row(bench: Bench, subject: Subject, full: tuple[list[int], int]) -> Row:
    """What a method holds beyond the full run."""
    with subject.rival.enable(bench.pipe, subject.value):
        steps, after = held(bench)
    return demo_row(
        "cache_memory",
        subject.rival.name,
        budget={"target_steps": subject.budget},
        setting=subject.rival.describe(subject.value),
        figures={
            "peak_bytes": max(own - plain for own, plain in zip(steps, full[0], strict=True)),
            "held_after_bytes": after - full[1],
        },
    )


def main() -> None:
    """A row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Bench.load()
    subjects = Task((), (args.budget,), None).subjects(bench)
    held(bench)  # what the first run makes once and keeps
    full = held(bench)
    write_rows([row(bench, subject, full) for subject in subjects], args.out)


if __name__ == "__main__":
    main()
