"""`measure_speed`: how much faster presets make a pipeline, without a look at quality."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .documents import quoted, save_file
from .errors import ConfigError
from .quality.records import json_value
from .timed_run import TimedRun, timed_run

BASELINE = "baseline"


@dataclass(frozen=True)
class SpeedRow:
    """What was measured of one acceleration, in the row schema of the benchmarks.

    Args:
        question: ``"bench"``.
        subject: its label, or ``"baseline"``.
        setting: pipeline class, prompt, seed, repeats and inputs.
        figures: ``seconds`` of the denoising loop (median), ``full_steps`` of ``num_steps``, ``cache_bytes_peak``, and
            of an acceleration ``speedup``, ``speedup_p20`` and ``speedup_p80``: median and percentiles of the ratios
            between the full run and the accelerated one of the same round. ``peak_memory_bytes`` only on CUDA: torch
            does not tell elsewhere.
    """

    question: str
    subject: str
    setting: dict[str, Any]
    figures: dict[str, float]


def measure_speed(
    pipe: Any,
    accelerations: Mapping[str, Any] | Sequence[str],
    prompt: str,
    *,
    seed: int = 0,
    repeats: int = 3,
    progress: bool = True,
    **pipe_kwargs: Any,
) -> tuple[SpeedRow, ...]:
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
        A row for the full run, then one for each acceleration.

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
    setting = {"pipeline": type(pipe).__name__, "prompt": prompt, "seed": seed, "repeats": repeats}
    setting |= json_value(pipe_kwargs)
    return tuple(
        SpeedRow("bench", label, setting, _figures(counted[BASELINE], found)) for label, found in counted.items()
    )


def save_rows(path: str | Path, rows: Sequence[SpeedRow], *, machine: str) -> None:
    """Write rows with date (UTC), machine and versions, as the benchmarks do.

    Raises:
        ConfigError: the file cannot be written.
    """
    document = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine,
        "versions": {name: version(name) for name in ("torch", "diffusers", "dit-accel")},
        "rows": [asdict(row) for row in rows],
    }
    save_file(Path(path), json.dumps(document, indent=1) + "\n", ConfigError, "rows")


def _figures(full: Sequence[TimedRun], runs: Sequence[TimedRun]) -> dict[str, float]:
    figures: dict[str, float] = {"seconds": statistics.median(run.seconds for run in runs)}
    if accelerated := [run.stats for run in runs if run.stats is not None]:
        ratios = [one.seconds / other.seconds for one, other in zip(full, runs, strict=True)]
        low, middle, high = np.percentile(ratios, (20, 50, 80))
        figures |= {"speedup": float(middle), "speedup_p20": float(low), "speedup_p80": float(high)}
        # Of one seed: what ran is the same in every round.
        figures |= {"full_steps": runs[-1].full_steps, "num_steps": accelerated[-1].num_steps}
        figures |= {"cache_bytes_peak": max(each.cache_bytes_peak for each in accelerated)}
    if memory := [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]:
        figures["peak_memory_bytes"] = max(memory)
    return figures
