"""``dit-accel recommend``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .help_texts import arguments
from .options import DEMO, Pipeline, load_pipeline
from .output import Result, Table

_RECOMMEND = arguments("recommend", "recommend")


def recommend(
    *,
    pipeline: Pipeline = DEMO,
    speedup: Annotated[float | None, typer.Option(help=_RECOMMEND["speedup"].text)] = None,
    max_lpips: Annotated[float | None, typer.Option(help=_RECOMMEND["max_lpips"].text)] = None,
    max_st_lpips: Annotated[float | None, typer.Option(help=_RECOMMEND["max_st_lpips"].text)] = None,
    min_psnr: Annotated[float | None, typer.Option(help=_RECOMMEND["min_psnr"].text)] = None,
    min_ssim: Annotated[float | None, typer.Option(help=_RECOMMEND["min_ssim"].text)] = None,
    reports: Annotated[
        list[Path] | None, typer.Option(metavar="FILE ...", help=_RECOMMEND["reports"].text, show_default=False)
    ] = None,
) -> Result:
    """Name the preset that, as measured, meets your limits best.

    The table is the Pareto front of speed and quality: nothing that was measured is both faster and better.
    """
    from .. import recommend as recommendations
    from ..quality.records import QualityReport

    found = recommendations.recommend(
        load_pipeline(pipeline),
        speedup=speedup,
        max_lpips=max_lpips,
        max_st_lpips=max_st_lpips,
        min_psnr=min_psnr,
        min_ssim=min_ssim,
        reports=reports or (),
    )
    # Of the metrics, those that limits can be set for: one line a row at a terminal of 100 columns.
    named = recommendations.QUALITY_METRICS
    front = [replace(row, metrics={n: row.metrics[n] for n in named if n in row.metrics}) for row in found.front]
    table = Table.from_markdown(QualityReport(tuple(front)).to_markdown())
    return Result(found.to_dict(), [found.preset, found.why, table])
