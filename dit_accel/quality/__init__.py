"""Quality of accelerated videos: metrics against the same seed's full run, and the report that carries them.

Names are resolved on first use: reading a report does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .metrics import lpips, psnr, psnr_moving, ssim, st_lpips
    from .records import QualityReport, QualityRow, QualitySample
    from .report import evaluate

_MODULE_OF = {
    "QualityReport": "records",
    "QualityRow": "records",
    "QualitySample": "records",
    "evaluate": "report",
    "lpips": "metrics",
    "psnr": "metrics",
    "psnr_moving": "metrics",
    "ssim": "metrics",
    "st_lpips": "metrics",
}

__all__ = [
    "QualityReport",
    "QualityRow",
    "QualitySample",
    "evaluate",
    "lpips",
    "psnr",
    "psnr_moving",
    "ssim",
    "st_lpips",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
