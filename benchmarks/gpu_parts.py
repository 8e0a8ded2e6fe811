"""How the GPU suite is divided: parts by worth, each with a limit; rows are written after each, whatever happens."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gpu_clock import Clock, OutOfTimeError, Peaks

from dit_accel.rows import Row, save_rows

QUESTION = "gpu_suite"


@dataclass
class Suite:
    """What all parts share.

    Args:
        device: where everything runs.
        dtype: of tensors and models.
        is_smoke: sizes are tiny, and times mean nothing.
        clock: with the deadline.
        peaks: set by the first part.
    """

    device: torch.device
    dtype: torch.dtype
    is_smoke: bool
    clock: Clock
    peaks: Peaks = field(default_factory=lambda: Peaks(float("inf"), float("inf")))

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Part:
    """A piece of the suite.

    Args:
        name: for ``--only``.
        worth: the part of more worth runs first.
        seconds: it stops after this time, with what it has found.
        run: yields rows.
    """

    name: str
    worth: int
    seconds: float
    run: Callable[[Suite], Iterator[Row]]


def not_measured(subject: str, why: str | Exception, **setting: object) -> Row:
    """A row for what has no figures, with the reason."""
    reason = str(why).partition("\n")[0]
    return Row(QUESTION, subject, setting={**setting, "not_measured": reason})


def failed(subject: str, problem: Exception) -> Row:
    """A row for what should have worked."""
    return Row(QUESTION, subject, setting={"failed": f"{type(problem).__name__}: {problem}"})


def attempt(rows: Iterator[Row], subject: str, **setting: object) -> Iterator[Row]:
    """``rows``, up to what takes too long or does not fit into memory: that becomes a row, and others may follow."""
    try:
        yield from rows
    except (OutOfTimeError, torch.cuda.OutOfMemoryError) as problem:
        yield not_measured(subject, problem, **setting)


def run_parts(parts: Sequence[Part], suite: Suite, out: Path | None, hardware: str) -> tuple[list[Row], list[str]]:
    """Run the parts by worth and write all rows after each; the rows, and what went wrong."""
    rows: list[Row] = []
    problems: list[str] = []
    for part in sorted(parts, key=lambda one: -one.worth):
        suite.clock.deadline.begin_part(part.seconds)
        for row in _rows_of(part, suite, problems):
            rows.append(row)
            show(row)
        if out is not None:
            save_rows(out, rows, hardware=hardware)
        if suite.device.type == "cuda":
            torch.cuda.empty_cache()
    return rows, problems


def _rows_of(part: Part, suite: Suite, problems: list[str]) -> Iterator[Row]:
    """The rows of a part; what stops it becomes a row too, and a problem unless it is the time."""
    if suite.clock.deadline.left <= 0:
        yield not_measured(f"part {part.name}", "the parts before it took all the time")
        return
    try:
        for row in part.run(suite):
            if row.setting.get("failed"):
                problems.append(f"{row.subject}: {row.setting['failed']}")
            yield row
            if suite.clock.deadline.left <= 0:
                yield not_measured(f"part {part.name}", f"the rest of it: {part.seconds:.0f} s are over")
                return
    except (OutOfTimeError, torch.cuda.OutOfMemoryError) as problem:
        yield not_measured(f"part {part.name}", f"the rest of it: {problem}")
    except Exception as problem:  # a part that breaks must not take the others with it
        traceback.print_exc()
        problems.append(f"part {part.name}: {type(problem).__name__}: {problem}")
        yield failed(f"part {part.name}", problem)


def show(row: Row) -> None:
    """Print a row on one line."""
    shapes = " ".join(f"{name} {value}" for name, value in row.shapes.items())
    found = {**row.budget, **({} if row.ratio is None else {"ratio": row.ratio}), **row.quality, **row.figures}
    figures = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
    print(f"{row.subject:44} {shapes}  {figures}  {dict(row.setting) or ''}", flush=True)
