"""`evaluate`: run a pipeline with and without accelerations on the same seeds and compare speed and quality.

The result, `QualityReport`, is defined in `records`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api import enable_acceleration
from ..errors import ConfigError
from ..timed_run import TimedRun, takes, timed_run
from .metrics import check_metrics, values_of_frames
from .provenance import provenance
from .records import FULL, IDLE, PARTIAL, REUSE, SPARSE, QualityReport, QualityRow, QualitySample
from .videos import BASELINE, check_videos, write_videos

__all__ = ["QualityReport", "QualityRow", "QualitySample", "evaluate", "mean_and_error"]

_RESERVED = ("prompt", "generator", "output_type", "return_dict")
_WARMUP_STEPS = 2
_FRAME_DIGITS = 6  # significant ones, of the values of single frames


def evaluate(
    pipe: Any,
    accelerations: Mapping[str, Any] | Sequence[str],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    metrics: Sequence[str] = ("psnr", "ssim", "lpips"),
    out: str | Path | None = None,
    videos: str | Path | None = None,
    fps: int = 16,
    warmup: bool = True,
    progress: bool = True,
    **pipe_kwargs: Any,
) -> QualityReport:
    """Measure accelerations of ``pipe`` against its own full run, for every prompt and seed.

    For each video the order is baseline, then every acceleration, so that drift of the machine hits all alike. Speed
    is the wall time of the denoising loop, clocked the same way for all.

    Args:
        pipe: a Diffusers video pipeline that is not accelerated now.
        accelerations: label -> preset name, config or tuple of them; or a list of preset names as their own labels.
        prompts: distinct prompts; for an honest report none that was used for profiling.
        seeds: distinct seeds of the CPU generator.
        metrics: of ``psnr``, ``psnr_moving``, ``ssim``, ``lpips``, ``st_lpips``.
        out: where to save the report as JSON, if anywhere.
        videos: folder, made if missing, that receives every video as an MP4 to look at, and each one's difference from
            the full run, four times enlarged; `QualityReport.to_html` shows them. None keeps none.
        fps: frames a second of these files, 1 to 240.
        warmup: start with a short run that is not counted, as start-up costs would flatter the accelerations.
        progress: show a progress bar over the videos.
        **pipe_kwargs: passed to every call of ``pipe``, e.g. ``num_inference_steps``, ``height``.

    Raises:
        ConfigError, MetricUnavailableError: an argument or a metric is unusable; found before anything is generated.
        DitAccelError: an acceleration does not fit the pipeline.
    """
    plans = _plans(accelerations)
    _check_inputs(prompts, seeds, out, pipe_kwargs)
    check_videos(videos, fps)
    check_metrics(metrics)
    where = provenance(pipe, plans, prompts, seeds, fps, pipe_kwargs)
    _rehearse(pipe, plans, prompts[0] if warmup else None, pipe_kwargs)
    samples: list[QualitySample] = []
    full_runs: list[TimedRun] = []
    with _progress_bar(len(prompts) * len(seeds) * (1 + len(plans)), progress) as bar:
        for (index, prompt), seed in product(enumerate(prompts), seeds):
            runs, shown = {}, {}
            for label, what in {BASELINE: (), **plans}.items():
                run = timed_run(pipe, what, seed, **_arguments(pipe, prompt, pipe_kwargs))
                shown[label] = _video(pipe, run.output)
                runs[label] = replace(run, output=None)
                bar.update()
            samples += _samples(runs, shown, prompt, seed, metrics)
            full_runs.append(runs[BASELINE])
            if videos is not None:
                write_videos(Path(videos), index, seed, shown, fps)
    where["baseline"] = {
        "denoise_seconds": statistics.median(run.seconds for run in full_runs),
        "peak_memory_bytes": _largest(run.peak_memory_bytes for run in full_runs),
    }
    rows = tuple(_row(label, [sample for sample in samples if sample.name == label]) for label in plans)
    report = QualityReport(rows, where, tuple(samples), None if videos is None else Path(videos))
    if out is not None:
        report.to_json(out)
    return report


def _plans(accelerations: Mapping[str, Any] | Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Label -> arguments of `enable_acceleration`."""
    if isinstance(accelerations, Mapping):
        pairs = list(accelerations.items())
    elif isinstance(accelerations, Sequence) and all(isinstance(name, str) for name in accelerations):
        pairs = [(name, name) for name in accelerations]
    else:
        pairs = []
    if not pairs or isinstance(accelerations, str):
        raise ConfigError(
            f"accelerations must be a non-empty list of preset names or a mapping label -> preset or config, got "
            f"{accelerations!r:.80}. Name a config with {{'my label': config}}."
        )
    labels = [label for label, _ in pairs]
    if len(set(labels)) != len(labels) or BASELINE in labels or not all(isinstance(label, str) for label in labels):
        raise ConfigError(
            f"Labels must be distinct texts other than {BASELINE!r}, got {labels}. Rename them in a mapping."
        )
    plans = {label: tuple(what) if isinstance(what, (list, tuple)) else (what,) for label, what in pairs}
    for label, what in plans.items():
        if not what:
            raise ConfigError(f"The acceleration {label!r} is empty. Give a preset name, a config or a tuple of them.")
    return plans


def _check_inputs(prompts: object, seeds: object, out: str | Path | None, pipe_kwargs: Mapping[str, Any]) -> None:
    """Everything that would otherwise fail, or mislead, after minutes of generation."""
    for name, values, kind in (("prompts", prompts, str), ("seeds", seeds, int)):
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"{name} must be a non-empty list, got {values!r:.80}. Put a single one into a list.")
        if any(type(value) is not kind for value in values) or len(set(values)) != len(values):
            raise ConfigError(f"{name} must be distinct values of type {kind.__name__}, got {values!r:.80}.")
    taken = sorted(set(_RESERVED) & set(pipe_kwargs))
    if taken:
        raise ConfigError(f"evaluate sets {', '.join(_RESERVED)} itself; got {', '.join(taken)}. Leave them out.")
    if out is not None and Path(out).is_dir():
        raise ConfigError(f"out={str(out)!r} is a folder. Give the path of a JSON file.")
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"The folder of out={str(out)!r} does not exist. Create it first.")


def _rehearse(
    pipe: Any, plans: Mapping[str, tuple[Any, ...]], prompt: str | None, pipe_kwargs: Mapping[str, Any]
) -> None:
    """Enable and disable each acceleration, as most of what can be wrong shows there; then the warm-up run, if any."""
    for what in plans.values():
        with enable_acceleration(pipe, *what):
            pass
    if prompt is not None:
        # Where the steps themselves are given, or the pipeline has another way to ask for them, it is a whole run.
        fixed = {"timesteps", "sigmas"} & set(pipe_kwargs) or not takes(pipe, "num_inference_steps")
        short = {} if fixed else {"num_inference_steps": _WARMUP_STEPS}
        pipe(generator=torch.Generator().manual_seed(0), **_arguments(pipe, prompt, {**pipe_kwargs, **short}))


def _arguments(pipe: Any, prompt: str, pipe_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of a call for one video."""
    asked = {"prompt": prompt} if takes(pipe, "prompt") else {}  # super-resolution has none
    return {**asked, "output_type": "np", **pipe_kwargs}


def _video(pipe: Any, output: Any) -> Tensor:
    """The one video of a call as [T, C, H, W] float32 in [0, 1]; an image is a video of one frame."""
    video = np.asarray(output[0], dtype=np.float32)  # frames, videos or images: the first field, whatever its name
    if video.ndim == 5 and len(video) == 1:
        video = video[0]
    if video.ndim != 4:
        raise ConfigError(
            f"evaluate needs one video [T, H, W, C] a call, {type(pipe).__name__} gave {np.shape(output[0])}. Leave "
            "num_videos_per_prompt at 1."
        )
    return torch.from_numpy(video).permute(0, 3, 1, 2).contiguous()


def _samples(
    runs: Mapping[str, TimedRun], videos: Mapping[str, Tensor], prompt: str, seed: int, metrics: Sequence[str]
) -> list[QualitySample]:
    """The accelerated runs of one prompt and seed, each against the full one."""
    samples = []
    for label, run in runs.items():
        if run.stats is None:
            continue
        frames = {name: values_of_frames(name, videos[BASELINE], videos[label]) for name in metrics}
        samples.append(
            QualitySample(
                name=label,
                prompt=prompt,
                seed=seed,
                computed_steps=run.full_steps,
                num_steps=run.stats.num_steps,
                speedup=runs[BASELINE].seconds / run.seconds,
                metrics={name: statistics.fmean(values) for name, values in frames.items()},
                density=run.stats.density,
                cache_bytes_peak=run.stats.cache_bytes_peak,
                peak_memory_bytes=run.peak_memory_bytes,
                frames={name: tuple(map(_shortened, values)) for name, values in frames.items()},
                steps=_letters(run.stats),
            )
        )
    return samples


def _letters(stats: Any) -> dict[str, dict[str, str]]:
    """Denoiser -> branch -> one letter a step, see `QualitySample`."""
    letters: dict[str, dict[str, list[str]]] = {}
    kinds = ((REUSE, stats.reused_steps), (FULL, stats.computed_steps), (SPARSE, stats.sparse_steps))
    for letter, by_denoiser in (*kinds, (PARTIAL, stats.partial_steps)):  # a later letter says more
        for denoiser, branches in by_denoiser.items():
            for branch, steps in branches.items():
                line = letters.setdefault(denoiser, {}).setdefault(branch, [IDLE] * stats.num_steps)
                for step in steps:
                    line[step] = letter
    return {name: {branch: "".join(line) for branch, line in lines.items()} for name, lines in letters.items()}


def _shortened(value: float) -> float:
    return float(f"{value:.{_FRAME_DIGITS}g}")


def _row(label: str, samples: Sequence[QualitySample]) -> QualityRow:
    densities = [sample.density for sample in samples if sample.density is not None]
    return QualityRow(
        name=label,
        computed_steps=round(statistics.fmean(sample.computed_steps for sample in samples)),
        num_steps=samples[0].num_steps,
        speedup=statistics.median(sample.speedup for sample in samples),
        num_videos=len(samples),
        metrics={name: mean_and_error(sample.metrics[name] for sample in samples) for name in samples[0].metrics},
        density=statistics.fmean(densities) if densities else None,
        cache_bytes_peak=max(sample.cache_bytes_peak for sample in samples),
        peak_memory_bytes=_largest(sample.peak_memory_bytes for sample in samples),
    )


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean and its standard error (sample deviation / sqrt n) over what is not NaN; NaN where undefined."""
    defined = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(defined) if defined else math.nan
    error = statistics.stdev(defined) / math.sqrt(len(defined)) if len(defined) > 1 else math.nan
    return mean, error


def _progress_bar(total: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="evaluate", unit="video", disable=not shown)
