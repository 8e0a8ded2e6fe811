"""``dit-accel plan``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .help_texts import arguments
from .output import Result

if TYPE_CHECKING:
    from ..schedule import CacheSchedule

_PLAN = arguments("profiling.planner", "plan")
_RESAMPLE = arguments("profiling.error_graph", "ErrorGraph.resample")
_LIMITS = "'--budget' / '--milliseconds' / '--speedup'"
# What a step does -> how it is drawn. A later kind says more of a step that is of two.
_STYLES = {"full": ("█", "green"), "partial": ("▄", "yellow"), "sparse": ("▒", "cyan"), "reuse": ("░", "bright_black")}


@dataclass(frozen=True)
class StepStrip:
    """The steps of a schedule by what they do; as text the bare steps, for scripts."""

    num_steps: int
    steps: Mapping[str, list[int]]

    def __str__(self) -> str:
        prefixes = {"full": "", "partial": "partial: ", "sparse": "sparse: "}
        return "\n".join(prefixes[kind] + " ".join(map(str, steps)) for kind, steps in self.steps.items() if steps)

    def __rich__(self) -> Text:
        kinds = ["reuse"] * self.num_steps
        for kind, steps in self.steps.items():
            for step in steps:
                kinds[step] = kind
        lines = [Text.assemble(*(_STYLES[kind] for kind in kinds))]
        for kind, style in _STYLES.items():
            found = [str(step) for step, each in enumerate(kinds) if each == kind]
            where = "" if kind == "reuse" else f": {' '.join(found)}"
            lines += [Text.assemble(style, f" {len(found)} {kind}{where}")] if found else []
        return Text("\n").join(lines)


def plan(
    graph: Annotated[Path, typer.Argument(help="error graph, as 'dit-accel profile' writes it.")],
    budget: Annotated[int | None, typer.Option(help=_PLAN["budget"].text)] = None,
    milliseconds: Annotated[float | None, typer.Option(help=_PLAN["milliseconds"].text)] = None,
    speedup: Annotated[float | None, typer.Option(help=_PLAN["speedup"].text)] = None,
    steps: Annotated[int | None, typer.Option(help=_RESAMPLE["num_steps"].text)] = None,
    shift: Annotated[float | None, typer.Option(help=_RESAMPLE["shift"].text)] = None,
    objective: Annotated[str, typer.Option(help=_PLAN["objective"].text)] = "lexicographic-minimax",
    power: Annotated[float, typer.Option(help=_PLAN["power"].text)] = 4.0,
    out: Annotated[Path | None, typer.Option(help="write the schedule here.")] = None,
) -> Result:
    """Find the best schedule of an error graph under one limit.

    The limit is --budget, --milliseconds or --speedup.
    """
    from ..profiling import planner
    from ..profiling.error_graph import ErrorGraph

    if sum(limit is not None for limit in (budget, milliseconds, speedup)) != 1:
        raise typer.BadParameter("give one of them.", param_hint=_LIMITS)
    measured = ErrorGraph.load(graph)
    if steps is not None or shift is not None:
        measured = measured.resample(steps, shift=shift)
    schedule = planner.plan(
        measured, budget, milliseconds=milliseconds, speedup=speedup, objective=objective, power=power
    )
    if out:
        schedule.save(out)
    by_kind = _steps_by_kind(schedule)
    data = {
        "num_steps": schedule.num_steps,
        "compute_steps": by_kind["full"],
        "partial_steps": by_kind["partial"],
        "sparse_steps": by_kind["sparse"],
    }
    return Result(data, [StepStrip(schedule.num_steps, by_kind)])


def _steps_by_kind(schedule: CacheSchedule) -> dict[str, list[int]]:
    return {
        "full": list(schedule.compute_steps),
        "partial": list(schedule.partial.steps) if schedule.partial else [],
        "sparse": list(schedule.sparse.steps) if schedule.sparse else [],
    }
