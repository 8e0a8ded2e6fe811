"""``dit-accel bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .help_texts import arguments
from .options import (
    DEMO,
    Device,
    Dtype,
    Inputs,
    Offload,
    Overrides,
    Pipeline,
    Presets,
    Steps,
    VaeTiling,
    accelerations,
    check_folder,
    load_pipeline,
    pipeline_inputs,
    steps_input,
)
from .output import Result, Table

if TYPE_CHECKING:
    from ..rows import Row

_BENCH = arguments("bench", "measure_speed")
_PROMPT = "a red seven moving left on navy"


def bench(
    *,
    pipeline: Pipeline = DEMO,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = "none",
    vae_tiling: VaeTiling = False,
    presets: Presets = None,
    overrides: Overrides = None,
    prompt: Annotated[str, typer.Option(help=_BENCH["prompt"].text)] = _PROMPT,
    seed: Annotated[int, typer.Option(help=_BENCH["seed"].text)] = 0,
    steps: Steps = None,
    repeats: Annotated[int, typer.Option(min=1, help=_BENCH["repeats"].text)] = 3,
    inputs: Inputs = "{}",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the rows as JSON, as those of benchmarks/ are.")
    ] = None,
    progress: bool,
) -> Result:
    """Measure the speed of presets alone."""
    if not presets:
        raise typer.BadParameter("name at least one preset.", param_hint="'--presets'")
    check_folder(out, "--out")
    call = pipeline_inputs(pipeline, inputs)
    pipe = load_pipeline(pipeline, dtype, device, offload=offload, vae_tiling=vae_tiling)
    from ..bench import measure_speed
    from ..quality.provenance import device_name
    from ..rows import save_rows
    from ..timed_run import device_of

    rows = measure_speed(
        pipe,
        accelerations(pipe, presets, overrides or []),
        prompt,
        seed=seed,
        repeats=repeats,
        progress=progress,
        **call,
        **steps_input(pipe, steps),
    )
    hardware = device_name(device_of(pipe))
    if out is not None:
        save_rows(out, rows, hardware=hardware)
    head = ["name", "seconds", "speed-up", "p20 to p80", "full steps", "cache", "peak memory"]
    return Result(
        {"hardware": hardware, "rows": rows},
        [
            Table(head, [_cells(row) for row in rows]),
            f"Of the denoising loop; medians. Rounds: {repeats}. Hardware: {hardware}.",
        ],
    )


def _cells(row: Row) -> list[str]:
    figures = row.figures
    memory = _mebibytes(figures["peak_memory_bytes"]) if "peak_memory_bytes" in figures else "not measured"
    if row.ratio is None:
        return [row.subject, f"{figures['seconds']:.3f}", "", "", "all", "", memory]
    return [
        row.subject,
        f"{figures['seconds']:.3f}",
        f"{row.ratio:.2f}×",
        f"{figures['ratio_p20']:.2f} to {figures['ratio_p80']:.2f}",
        f"{row.budget['computed_steps']:.0f} / {row.budget['num_steps']:.0f}",
        _mebibytes(figures["cache_bytes_peak"]),
        memory,
    ]


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
