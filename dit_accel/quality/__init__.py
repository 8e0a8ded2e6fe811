"""Quality of accelerated videos: metrics against the same seed's full run, and the report that carries them."""

from __future__ import annotations

from .metrics import lpips, psnr, psnr_moving, ssim, st_lpips
from .records import QualityReport, QualityRow, QualitySample
from .report import evaluate

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
