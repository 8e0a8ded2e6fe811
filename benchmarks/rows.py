"""What the benchmarks share: rows of the embedded model, and how rows are shown and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dit_accel import DEMO_INPUTS
from dit_accel.quality.provenance import device_name
from dit_accel.rows import Row, save_rows

__all__ = ["DEMO_SHAPES", "Row", "demo_row", "quality_figures", "write_rows"]

DEMO_TOKENS = 324
DEMO_SHAPES = {name: DEMO_INPUTS[name] for name in ("height", "width", "num_frames")} | {"tokens": DEMO_TOKENS}
# A row of the embedded model at its own size.
demo_row = partial(Row, pipeline="digits-wan", shapes=DEMO_SHAPES, dtype="float32")


def quality_figures(found: Any) -> dict[str, float]:
    """PSNR, SSIM and the number of videos of a row of a `QualityReport`."""
    return {
        "psnr_db": found.metrics["psnr"][0],
        "psnr_standard_error_db": found.metrics["psnr"][1],
        "ssim": found.metrics["ssim"][0],
        "videos": found.num_videos,
    }


def write_rows(rows: Sequence[Row], out: Path | None, *, device: str = "cpu") -> None:
    """Print the rows, and write them to ``out`` if given."""
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}x  "
        found = _shown({**row.budget, **row.quality, **row.figures})
        print(f"{row.subject:40} {ratio}{found}   ({_shown(row.setting)})", flush=True)
    if out is not None:
        save_rows(out, rows, hardware=device_name(torch.device(device)))


def _shown(values: Mapping[str, Any]) -> str:
    pairs = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return "  ".join(f"{name} {value}" for name, value in pairs.items())
