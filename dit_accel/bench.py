"""`measure_speed`: how much faster presets make a pipeline, without a look at quality."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from .documents import quoted
from .errors import ConfigError
from .quality.records import json_value
from .rows import Row
from .timed_run import TimedRun, timed_run

BASELINE = "baseline"
SIZES = ("height", "width", "num_frames", "num_videos_per_prompt")


def measure_speed(
    pipe: Any,
    accelerations: Mapping[str, Any] | Sequence[str],
    prompt: str,
    *,
    seed: int = 0,
    repeats: int = 3,
    progress: bool = True,
    **pipe_kwargs: Any,
) -> tuple[Row, ...]:
    """Time accelerations of ``pipe`` against its own full run.

    Every round runs the full pipeline, then each acceleration, so that drift of the machine hits all alike and a ratio
    is of two runs one shortly after the other. A first round warms up and is not counted.

    Args:
        pipe: a Diffusers video pipeline that is not accelerated now.
        accelerations: label -> preset name, config or tuple of them; or a list of preset names as their own labels.
        prompt: the prompt of every run. Only what decides while it runs, DBCache, depends on it.
        seed: seed of the CPU generator of every run.
        repeats: rounds, at least 1. More: steadier figures, proportionally longer.
        progress: show a progress bar over the runs.
        **pipe_kwargs: passed to every call of ``pipe``, e.g. ``num_inference_steps``, ``height``. Without
            ``output_type`` the latents are not decoded.

    Returns:
        A `Row` for the full run, then one for each acceleration: ``ratio`` is the median, over the rounds, of the full
        run's seconds over the accelerated run's, ``ratio_p20`` and ``ratio_p80`` its percentiles. ``seconds`` of the
        denoising loop are a median. ``peak_memory_bytes`` only on CUDA: torch does not tell elsewhere.

    Raises:
        ConfigError: no accelerations, a label ``"baseline"``, or ``repeats`` below 1.
        DitAccelError: an acceleration does not fit the pipeline, or its denoiser is not called.
    """
    from tqdm.auto import tqdm

    named = accelerations if isinstance(accelerations, Mapping) else {name: name for name in accelerations}
    plans: dict[str, tuple[Any, ...]] = {BASELINE: ()}
    plans |= {label: tuple(what) if isinstance(what, (list, tuple)) else (what,) for label, what in named.items()}
    if not named or BASELINE in named:
        raise ConfigError(f"Name at least one acceleration, and none {BASELINE!r}, got {quoted(list(named))}.")
    if type(repeats) is not int or repeats < 1:
        raise ConfigError(f"repeats must be an integer of at least 1, got {quoted(repeats)}.")
    arguments = {"output_type": "latent", **pipe_kwargs, "prompt": prompt}
    runs: dict[str, list[TimedRun]] = {label: [] for label in plans}
    with tqdm(total=len(plans) * (1 + repeats), desc="bench", unit="run", disable=not progress) as bar:
        for _, (label, what) in product(range(1 + repeats), plans.items()):
            runs[label].append(timed_run(pipe, what, seed, **arguments))
            bar.update()
    counted = {label: found[1:] for label, found in runs.items()}
    shared = {
        "pipeline": type(pipe).__name__,
        "shapes": {name: pipe_kwargs[name] for name in SIZES if type(pipe_kwargs.get(name)) is int},
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "setting": {"prompt": prompt, "seed": seed, "repeats": repeats, **json_value(pipe_kwargs)},
    }
    return tuple(_row(label, shared, counted[BASELINE], found) for label, found in counted.items())


def _row(label: str, shared: dict[str, Any], full: Sequence[TimedRun], runs: Sequence[TimedRun]) -> Row:
    row = Row("bench", label, **shared)
    figures: dict[str, float] = {"seconds": statistics.median(run.seconds for run in runs)}
    if memory := [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]:
        figures["peak_memory_bytes"] = max(memory)
    accelerated = [run.stats for run in runs if run.stats is not None]
    if not accelerated:
        return replace(row, figures=figures)
    ratios = [one.seconds / other.seconds for one, other in zip(full, runs, strict=True)]
    low, middle, high = (float(value) for value in np.percentile(ratios, (20, 50, 80)))
    figures |= {"ratio_p20": low, "ratio_p80": high}
    figures["cache_bytes_peak"] = max(each.cache_bytes_peak for each in accelerated)
    # Of one seed: what ran is the same in every round.
    budget = {"computed_steps": runs[-1].full_steps, "num_steps": accelerated[-1].num_steps}
    return replace(row, budget=budget, ratio=middle, figures=figures)
