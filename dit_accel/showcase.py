"""The main job on the embedded model: every preset, and uniform skips at the same budgets, against the full run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .configs import Config, LeMiCaConfig, SVG2Config
from .demo import DEMO_INPUTS, load_demo_pipeline
from .documents import write_atomically
from .errors import DitAccelError
from .quality.page import require_packages
from .quality.report import evaluate
from .registry import presets_of
from .schedule import CacheSchedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .quality.report import QualityReport

NUM_STEPS = 50
FRAMES_PER_SECOND = 6
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


def compared(pipe: DiffusionPipeline, *, with_sparse: bool = False) -> dict[str, str | Config]:
    """Label -> preset or config: the presets of ``pipe``, LeMiCa's each before a uniform skip of its budget.

    Args:
        pipe: the demo pipeline.
        with_sparse: also those with sparse attention. At this model's 324 tokens they take longer than the full run.
    """
    found: dict[str, str | Config] = {}
    presets = {name: build() for name, build in presets_of(pipe).items()}
    for name, configs in sorted(presets.items(), key=lambda item: _order(*item)):
        if with_sparse or not any(isinstance(config, SVG2Config) for config in configs):
            found[name] = name
        if name.startswith("lemica") and isinstance(configs[0], LeMiCaConfig):
            schedule = configs[0].cache_schedule
            uniform = CacheSchedule.uniform(schedule.num_steps, schedule.budget)
            found[uniform.name] = LeMiCaConfig(uniform)
    return found


def _order(name: str, configs: tuple[Config, ...]) -> tuple[str, int, str]:
    """Methods together; within LeMiCa the slowest first."""
    budgets = [-config.cache_schedule.budget for config in configs if isinstance(config, LeMiCaConfig)]
    return name.partition("-")[0], sum(budgets), name


def run_showcase(
    out: Path,
    *,
    num_prompts: int = 4,
    seeds: Sequence[int] = (101,),
    metrics: Sequence[str],
    with_sparse: bool = False,
    progress: bool = True,
) -> QualityReport:
    """Run the comparison on held-out prompts and write everything a person wants to see into ``out``.

    Args:
        out: directory, made if missing; receives ``report.html``, ``report.json``, ``report.md`` and ``videos/``.
        num_prompts: held-out prompts, 1 to 8. More: steadier figures, proportionally longer.
        seeds: every prompt is drawn with each.
        metrics: names from `dit_accel.quality.metrics.METRICS`.
        with_sparse: also the presets with sparse attention, which take longer than the full run on so few tokens.
        progress: show a bar with the time left.

    Raises:
        MissingPackageError: jinja2 or matplotlib is not installed.
        MetricUnavailableError: what a metric needs is missing.
        DitAccelError: ``out`` cannot be written.
    """
    require_packages()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DitAccelError(f"The folder {out} cannot be written: {problem}. Give another one.") from None
    pipe = load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    report = evaluate(
        pipe,
        compared(pipe, with_sparse=with_sparse),
        HELD_OUT_PROMPTS[:num_prompts],
        seeds=list(seeds),
        metrics=metrics,
        out=out / "report.json",
        videos=out / "videos",
        fps=FRAMES_PER_SECOND,
        progress=progress,
        num_inference_steps=NUM_STEPS,
        **DEMO_INPUTS,
    )
    report.to_html(out / "report.html")
    write_atomically(out / "report.md", report.to_markdown() + "\n")
    return report
