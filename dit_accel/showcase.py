"""The main job on the embedded model: every preset and a uniform skip at the same budget, against the full run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
from torch import Tensor

from .api import available_presets
from .configs import LeMiCaConfig
from .demo import DEMO_INPUTS, load_demo_pipeline
from .documents import write_atomically
from .errors import DitAccelError, MissingPackageError
from .quality.report import evaluate
from .schedule import CacheSchedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .quality.report import QualityReport

NUM_STEPS = 50
FRAMES_PER_SECOND = 6
VIDEO_SCALE = 4
# Held out: no (colour, digit, motion) of these was ever trained on or profiled.
HELD_OUT_PROMPTS: tuple[str, ...] = (
    "a white zero moving left on black",
    "a red three moving right on navy",
    "a yellow nine moving up on black",
    "a magenta eight moving down on black",
    "a cyan two spinning on navy",
    "a orange five bouncing on black",
    "a white six growing on gray",
    "a magenta two shrinking on gray",
)


def compared_schedules(pipe: DiffusionPipeline) -> dict[str, LeMiCaConfig]:
    """Label -> config: the LeMiCa presets of ``pipe``, slowest first, each before a uniform skip of its budget."""
    presets = {name: LeMiCaConfig(f"digits-wan/{name}") for name in available_presets(pipe) if "lemica" in name}
    compared: dict[str, LeMiCaConfig] = {}
    for name, config in sorted(presets.items(), key=lambda item: -item[1].cache_schedule.budget):
        schedule = config.cache_schedule
        uniform = CacheSchedule.uniform(schedule.num_steps, schedule.budget)
        compared |= {name: config, uniform.name: LeMiCaConfig(uniform)}
    return compared


def run_showcase(
    out: Path, *, num_prompts: int = 4, seeds: Sequence[int] = (101,), metrics: Sequence[str], progress: bool = True
) -> QualityReport:
    """Run the comparison on held-out prompts and write everything a person wants to see into ``out``.

    Args:
        out: directory, made if missing; receives ``report.json``, ``report.md``, ``schedules.png`` and ``videos/``.
        num_prompts: held-out prompts, 1 to 8. More: steadier figures, proportionally longer.
        seeds: every prompt is drawn with each.
        metrics: names from `dit_accel.quality.metrics.METRICS`.
        progress: show a bar with the time left.

    Raises:
        MissingPackageError: matplotlib is not installed.
        MetricUnavailableError: what a metric needs is missing.
        DitAccelError: ``out`` cannot be written.
    """
    if find_spec("matplotlib") is None:  # said now, and not after minutes of generation
        raise MissingPackageError('The schedule picture needs matplotlib. pip install "dit-accel[plot]"')
    try:
        (out / "videos").mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DitAccelError(f"The folder {out} cannot be written: {problem}. Give another one.") from None
    pipe = load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    compared = compared_schedules(pipe)
    shown: dict[str, list[Tensor]] = {}

    def keep(label: str, prompt: str, seed: int, video: Tensor) -> None:
        shown.setdefault(f"{prompt}, seed {seed}", []).append(video)

    report = evaluate(
        pipe,
        compared,
        HELD_OUT_PROMPTS[:num_prompts],
        seeds=list(seeds),
        metrics=metrics,
        keep_videos=keep,
        progress=progress,
        num_inference_steps=NUM_STEPS,
        **DEMO_INPUTS,
    )
    for title, videos in shown.items():
        name = title.replace(", ", "-").replace(" ", "-")
        write_side_by_side(out / "videos" / f"{name}.mp4", videos)
    write_schedule_strips(out / "schedules.png", {label: config.cache_schedule for label, config in compared.items()})
    report.to_json(out / "report.json")
    write_atomically(out / "report.md", report.to_markdown() + "\n")
    write_atomically(out / "videos" / "order.json", json.dumps(["baseline", *compared], indent=2) + "\n")
    return report


def write_side_by_side(path: Path, videos: Sequence[Tensor]) -> None:
    """One MP4 with the videos [T, C, H, W] in [0, 1] next to each other, enlarged, in the order given."""
    row = np.concatenate([video.permute(0, 2, 3, 1).numpy() for video in videos], axis=2)
    frames = (row.repeat(VIDEO_SCALE, axis=1).repeat(VIDEO_SCALE, axis=2) * 255).round().astype(np.uint8)
    iio.imwrite(path, frames, fps=FRAMES_PER_SECOND, codec="libx264", macro_block_size=16)


def write_schedule_strips(path: Path, schedules: Mapping[str, CacheSchedule]) -> None:
    """A picture with one strip a schedule: dark where a step is computed, light where it reuses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.42 * len(schedules) + 0.9), layout="constrained")
    axes: Any = figure.add_subplot()
    longest = max(schedule.num_steps for schedule in schedules.values())
    image = np.full((len(schedules), longest), np.nan)
    for row, schedule in enumerate(schedules.values()):
        image[row, : schedule.num_steps] = 0.15
        image[row, list(schedule.compute_steps)] = 0.85
    axes.pcolormesh(image, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    axes.set_yticks(np.arange(len(schedules)) + 0.5, [f"{name} ({s.budget})" for name, s in schedules.items()])
    axes.invert_yaxis()
    axes.set(xlabel="denoising step (dark: computed, light: reused)")
    figure.savefig(path, dpi=110)
