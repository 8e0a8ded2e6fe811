"""A report with videos that needs no model."""

from __future__ import annotations

import math

import pytest
import torch

from dit_accel.quality import QualityReport, QualityRow, QualitySample
from dit_accel.quality.videos import write_videos

NUM_FRAMES, FPS = 6, 10
PROMPTS = ("a red </script><script>throw 1</script> seven", "a blue & green one")
STEPS = {"fast": {"transformer": {"cond": "FRRF", "uncond": "FRRF"}}, "slow": {"transformer": {"cond": "FSPR"}}}


def sample(name: str, prompt: int, psnr: float) -> QualitySample:
    frames = {"psnr": tuple(psnr + 0.1 * frame for frame in range(NUM_FRAMES)), "lpips": (0.01,) * NUM_FRAMES}
    return QualitySample(
        name=name,
        prompt=PROMPTS[prompt],
        seed=7,
        computed_steps=2,
        num_steps=4,
        speedup=2.0,
        metrics={"psnr": psnr, "lpips": 0.01},
        density=None,
        cache_bytes_peak=1536,
        frames=frames,
        steps=STEPS[name],
    )


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> QualityReport:
    """Two accelerations, two prompts of one seed; the second prompt is the worse one of ``fast``."""
    folder = tmp_path_factory.mktemp("videos")
    brightness = torch.linspace(0, 0.5, NUM_FRAMES).view(-1, 1, 1, 1).expand(-1, 3, 48, 48)
    for prompt in range(len(PROMPTS)):
        videos = {"baseline": brightness, "fast": brightness + 0.1, "slow": brightness + 0.05}
        write_videos(folder, prompt, 7, videos, FPS)
    samples = [sample("fast", 0, 31.0), sample("fast", 1, 29.0), sample("slow", 0, 40.0), sample("slow", 1, 41.0)]
    rows = (
        QualityRow("fast", 2, 4, 2.0, 2, {"psnr": (30.0, 1.0), "lpips": (0.01, math.nan)}, None, 1536, 3 << 30),
        QualityRow("slow", 3, 4, 1.5, 2, {"psnr": (40.5, 0.5), "lpips": (0.001, 0.0002)}, 0.25, 0),
    )
    provenance = {
        "pipeline": "WanPipeline",
        "model": "tiny <model>",
        "prompts": list(PROMPTS),
        "seeds": [7],
        "fps": FPS,
        "date": "2026-01-02T03:04:05+00:00",
        "device": "a processor",
        "inputs": {},
        "unavailable_metrics": {"st_lpips": "no weights"},
        "baseline": {"denoise_seconds": 2.0, "peak_memory_bytes": None},
    }
    return QualityReport(rows, provenance, tuple(samples), folder)
