"""The one row schema of all benchmarks, printed and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measurement: what was asked, of what, under which setting, and the figures with units in their names."""

    question: str
    subject: str
    setting: dict[str, Any]
    figures: dict[str, float]


def quality_figures(found: Any) -> dict[str, float]:
    """PSNR, SSIM and the number of videos of a row of a `QualityReport`."""
    return {
        "psnr_db": found.metrics["psnr"][0],
        "psnr_standard_error_db": found.metrics["psnr"][1],
        "ssim": found.metrics["ssim"][0],
        "videos": found.num_videos,
    }


def write_rows(rows: Sequence[Row], out: Path | None, *, machine: str) -> None:
    """Print the rows, and write them with the date (UTC), versions and machine to ``out`` if given."""
    for row in rows:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
        setting = ", ".join(f"{name} {value}" for name, value in row.setting.items())
        print(f"{row.subject:40} {figures}   ({setting})")
    if out is not None:
        document = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": machine,
            "versions": _versions(),
            "rows": [asdict(row) for row in rows],
        }
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "diffusers", "dit-accel", "cache-dit"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
