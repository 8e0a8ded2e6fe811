"""``dit-accel demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .help_texts import arguments
from .options import quiet_loading
from .output import Result, Table, status

_FIRST_SEED = 101
_SHOWCASE = arguments("showcase", "run_showcase")


def demo(
    out: Annotated[Path, typer.Option(help=_SHOWCASE["out"].text)] = Path("dit-accel-demo"),
    prompts: Annotated[int, typer.Option(min=1, max=8, help=_SHOWCASE["num_prompts"].text)] = 4,
    seeds: Annotated[int, typer.Option(min=1, max=8, help="seeds that every prompt is drawn with.")] = 1,
    sparse: Annotated[bool, typer.Option("--sparse", metavar="", help=_SHOWCASE["with_sparse"].text)] = False,
    *,
    progress: bool,
) -> Result:
    """Run the embedded model: its presets and uniform skips of the same budgets, measured."""
    with status("Starting"):
        from ..quality.metrics import METRICS, unavailable_metrics
        from ..showcase import run_showcase

    missing = unavailable_metrics()
    with quiet_loading():
        report = run_showcase(
            out,
            num_prompts=prompts,
            seeds=range(_FIRST_SEED, _FIRST_SEED + seeds),
            metrics=[name for name in METRICS if name not in missing],
            with_sparse=sparse,
            progress=progress,
        )
    notes = [f"{name}: not measured ({reason})" for name, reason in missing.items()]
    return Result(
        {"out": out, "rows": report.to_dict()["rows"], "not_measured": missing},
        [
            Table.from_markdown(report.to_markdown()),
            *notes,
            f"The page is {out / 'report.html'}, with the videos in it",
        ],
    )
