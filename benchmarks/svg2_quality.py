"""SVG2 on the demo model: how near its presets come to dense attention, and what the stand-ins are worth.

    OMP_NUM_THREADS=1 python benchmarks/svg2_quality.py [--out benchmarks/results/svg2_quality.json]

Each preset runs with and without stand-ins for dropped clusters, on held-out prompts. Without them ``top_p`` is
searched, on one video, so that at least as many pairs are computed. "density" is over all calls, dense first steps and
layers included. 324 tokens are too few for sparse attention to save time: there is no figure of speed here, see
``svg2_speed.py``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import demo_row, quality_figures, write_rows

from dit_accel import DEMO_INPUTS, SVG2Config, enable_acceleration, evaluate, load_demo_pipeline
from dit_accel.showcase import HELD_OUT_PROMPTS

NUM_STEPS = 50
PRESETS = ("svg2", "svg2-turbo")
SEARCH_PROMPT, SEARCH_ROUNDS = "a green one moving left on navy", 6


def density(pipe: Any, config: SVG2Config) -> float:
    """Of one video."""
    with enable_acceleration(pipe, config) as acceleration:
        generator = torch.Generator().manual_seed(0)
        pipe(prompt=SEARCH_PROMPT, num_inference_steps=NUM_STEPS, generator=generator, **DEMO_INPUTS)
        return acceleration.stats.density or 0.0


def without_stand_ins(pipe: Any, config: SVG2Config) -> SVG2Config:
    """``config`` without compensation, and with the least ``top_p`` found that computes as many pairs."""
    wanted, low, high = density(pipe, config), 0.0, 1.0
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        found = density(pipe, replace(config, compensate=False, top_p=middle))
        low, high = (middle, high) if found < wanted else (low, middle)
    return replace(config, compensate=False, top_p=high)


def main() -> None:
    """Run all, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--prompts", type=int, default=len(HELD_OUT_PROMPTS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pipe = load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    configs: dict[str, SVG2Config] = {}
    for preset in PRESETS:
        with enable_acceleration(pipe, preset) as acceleration:
            (config,) = acceleration.configs
        assert isinstance(config, SVG2Config)
        configs |= {preset: config, f"{preset}, nothing stands in": without_stand_ins(pipe, config)}
    report = evaluate(
        pipe,
        configs,
        HELD_OUT_PROMPTS[: args.prompts],
        seeds=args.seeds,
        metrics=("psnr", "ssim"),
        num_inference_steps=NUM_STEPS,
        **DEMO_INPUTS,
    )
    rows = [
        demo_row(
            question="svg2_quality",
            subject=found.name,
            setting={"config": repr(configs[found.name])},
            budget={"density": found.density or 0.0},
            quality=quality_figures(found),
        )
        for found in report.rows
    ]
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
