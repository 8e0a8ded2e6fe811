"""``dit-accel merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .help_texts import arguments
from .options import check_folder
from .output import Result, status


def merge(
    workdirs: Annotated[
        list[Path], typer.Argument(help=arguments("profiling.merging", "merge")["workdirs"].text, show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder that receives NUM_STEPS-steps.graph.json.")],
) -> Result:
    """Make one error graph of the shards of a profile.

    It is the graph that one process would have measured, to the bit. 'dit-accel plan' plans from it.
    """
    with status("Merging"):
        from ..errors import JobError
        from ..profiling.merging import merge as merged

        check_folder(out, "--out")
        graph = merged(workdirs)
        path = out / f"{graph.num_steps}-steps.graph.json"
        try:
            out.mkdir(exist_ok=True)
        except OSError as problem:
            raise JobError(f"The output directory {out} cannot be written: {problem}.") from None
        graph.save(path)
    return Result(
        {"graph": path, "rollout_steps": graph.rollout_steps, "edges": len(graph.edges)},
        [f"{path}: {graph.rollout_steps:,} full denoiser steps, {len(graph.edges)} edges"],
    )
