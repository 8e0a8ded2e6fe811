"""``dit-accel report``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

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
    read_prompts,
    steps_input,
)
from .output import Drawn, Result, Table, status

if TYPE_CHECKING:
    from ..quality.records import QualityReport

_EVALUATE = arguments("quality.report", "evaluate")
_METRICS = ["psnr", "ssim"]
Prompts = Annotated[Path | None, typer.Option(metavar="FILE", help="text file, one prompt a line.")]
Seeds = Annotated[list[int] | None, typer.Option(metavar="N ...", help=_EVALUATE["seeds"].text, show_default="0")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME ...", help=_EVALUATE["metrics"].text, show_default=" ".join(_METRICS)),
]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help=_EVALUATE["out"].text)]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="write a page with charts and videos here.")]
Videos = Annotated[Path | None, typer.Option(metavar="FOLDER", help=_EVALUATE["videos"].text)]
Fps = Annotated[int, typer.Option(help=_EVALUATE["fps"].text)]
Stored = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="run nothing: show a report that --out wrote, with its --videos."),
]


def report(
    *,
    pipeline: Pipeline = DEMO,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = "none",
    vae_tiling: VaeTiling = False,
    presets: Presets = None,
    overrides: Overrides = None,
    prompts: Prompts = None,
    seeds: Seeds = None,
    steps: Steps = None,
    metrics: Metrics = None,
    inputs: Inputs = "{}",
    out: Out = None,
    html: Html = None,
    videos: Videos = None,
    fps: Fps = 16,
    stored: Stored = None,
    progress: bool,
) -> Result:
    """Measure speed and quality of presets on your prompts.

    What is measured against is the full run of the same prompt and seed.
    """
    if stored is not None:
        if presets or prompts or out:
            raise typer.BadParameter("only --html and --videos go with it, as nothing is run.", param_hint="'--from'")
        return _shown(_load(stored, videos), html)
    if not presets or not prompts:
        raise typer.BadParameter("both are needed, unless --from is given.", param_hint="'--presets' / '--prompts'")
    _check_page(html)
    lines, call = read_prompts(prompts), pipeline_inputs(pipeline, inputs)
    with status("Starting"):
        from ..quality.metrics import check_metrics
        from ..quality.report import evaluate

    check_metrics(metrics or _METRICS)
    pipe = load_pipeline(pipeline, dtype, device, offload=offload, vae_tiling=vae_tiling)
    named = accelerations(pipe, presets, overrides or [])
    call |= steps_input(pipe, steps)
    how: dict[str, Any] = {"seeds": seeds or [0], "metrics": metrics or _METRICS, "out": out, "fps": fps}
    with TemporaryDirectory() as folder:  # for videos that only the page shows, which holds them
        kept = folder if html and not videos else videos
        return _shown(evaluate(pipe, named, lines, videos=kept, progress=progress, **how, **call), html)


def _load(path: Path, videos: Path | None) -> QualityReport:
    from ..quality.records import QualityReport

    return QualityReport.load(path, videos=videos)


def _check_page(html: Path | None) -> None:
    """Raise now what would be raised after minutes of generation."""
    check_folder(html, "--html")
    if html is not None:
        from ..quality.page import require_packages

        require_packages()


def _shown(found: QualityReport, html: Path | None) -> Result:
    if html is not None:
        found.to_html(html)
    parts: list[str | Drawn] = [Table.from_markdown(found.to_markdown())]
    return Result({"rows": found.to_dict()["rows"], "html": html}, parts + ([f"The page is {html}"] if html else []))
