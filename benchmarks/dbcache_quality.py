"""DBCache against cache-dit on the demo model: quality at an equal number of computed steps.

    python benchmarks/dbcache_quality.py [--out benchmarks/results/dbcache_quality.json]

Needs ``pip install dit-accel[rivals]``. For each DBCache preset, cache-dit runs with the same probe blocks, warmup
and limit, with and without its TaylorSeer calibrator. Its threshold is searched, on the first videos, so that it
computes at least as many steps as the preset; then all run on held-out prompts, one by one for each video. A computed
step is one in which block 6 of 12 runs, counted by a hook in it, the same for all; the figure is the mean over both
CFG branches.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cache_dit
from demo_bench import NUM_STEPS, Bench
from rows import Row, demo_row, write_rows

from dit_accel import DBCacheConfig, enable_acceleration
from dit_accel.api import available_presets
from dit_accel.quality import psnr
from dit_accel.showcase import HELD_OUT_PROMPTS

SEARCH_ROUNDS, SEARCH_VIDEOS = 6, 4


@contextlib.contextmanager
def rival(pipe: Any, like: DBCacheConfig, threshold: float, *, has_taylor: bool) -> Iterator[None]:
    """cache-dit with the knobs of ``like`` and a threshold of its own."""
    limit = like.max_continuous_cached_steps
    cache_dit.enable_cache(
        pipe,
        cache_config=cache_dit.DBCacheConfig(
            num_inference_steps=NUM_STEPS,
            Fn_compute_blocks=like.probe_blocks,
            Bn_compute_blocks=like.corrector_blocks,
            residual_diff_threshold=threshold,
            max_warmup_steps=like.max_warmup_steps,
            max_continuous_cached_steps=-1 if limit is None else limit,
        ),
        calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if has_taylor else None,
    )
    try:
        yield
    finally:
        cache_dit.disable_cache(pipe)


def search_threshold(bench: Bench, like: DBCacheConfig, steps: float, videos: list[Any], has_taylor: bool) -> float:
    """The largest threshold found by bisection with which the rival computes at least ``steps`` steps."""
    low, high = 0.0, 4 * like.residual_diff_threshold
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        with rival(bench.pipe, like, middle, has_taylor=has_taylor):
            computed = statistics.fmean(bench.run(*video).computed_steps for video in videos)
        low, high = (middle, high) if computed >= steps else (low, middle)
    return low


def main() -> None:
    """Search, run, print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Bench.load()
    pipe = bench.pipe
    videos = [(prompt, seed) for prompt, seed in product(HELD_OUT_PROMPTS, args.seeds)]
    methods: dict[str, Any] = {}
    for preset in [name for name in available_presets(pipe) if name.startswith("dbcache")]:
        with enable_acceleration(pipe, preset) as acceleration:
            (config,) = acceleration.configs
            steps = statistics.fmean(bench.run(*video).computed_steps for video in videos[:SEARCH_VIDEOS])
        methods[f"dit_accel {preset}"] = (config, partial(enable_acceleration, pipe, preset))
        for name, has_taylor in (("cache-dit", False), ("cache-dit TaylorSeer", True)):
            threshold = search_threshold(bench, config, steps, videos[:SEARCH_VIDEOS], has_taylor)
            methods[f"{name} like {preset}"] = (
                {"residual_diff_threshold": threshold},
                partial(rival, pipe, config, threshold, has_taylor=has_taylor),
            )
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
    for video in videos:
        reference, full_seconds, _ = bench.run(*video)
        for name, (_, method) in methods.items():
            with method():
                frames, seconds, computed = bench.run(*video)
            figures[name].append((psnr(frames, reference), full_seconds / seconds, computed))
            print(f"{name:45} {video}  {figures[name][-1]}", flush=True)
    rows = [row(name, methods[name][0], runs) for name, runs in figures.items()]
    write_rows(rows, args.out)


def row(name: str, setting: Any, runs: list[tuple[float, float, float]]) -> Row:
    """Means over the videos; the error is the standard error of the mean."""
    decibels, speedups, computed = zip(*runs, strict=True)
    return demo_row(
        question="dbcache_quality",
        subject=name,
        setting=setting if isinstance(setting, dict) else {"config": repr(setting)},
        budget={"computed_steps": statistics.fmean(computed), "num_steps": NUM_STEPS},
        ratio=statistics.median(speedups),
        quality={
            "psnr_db": statistics.fmean(decibels),
            "psnr_standard_error_db": statistics.stdev(decibels) / len(decibels) ** 0.5,
            "videos": len(runs),
        },
    )


if __name__ == "__main__":
    main()
