"""What `random_walk` asks of which pipelines, and what one of its own makes of each request."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)
from torch import Tensor

import dit_accel
from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config, enable_acceleration
from dit_accel.actions import PartialSteps, SparseSteps
from dit_accel.pipelines import wan

from .calls import call

STEPS = 6
KNOBS = {"top_p": 0.5, "num_q_centroids": 2, "num_k_centroids": 4, "min_tokens": 0, "dense_layers": 0.0}
SPARSE = SVG2Config(**KNOBS, dense_steps=0.0)
PROBE = DBCacheConfig(residual_diff_threshold=0.3, max_warmup_steps=1, forecast="taylor1")
SCHEDULE = LeMiCaConfig(CacheSchedule(STEPS, (0, 3)))
JOINT = CacheSchedule(STEPS, (0, 3), sparse=SparseSteps((3,), KNOBS), partial=PartialSteps((2, 5), 1, 1))
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "unipc": lambda: UniPCMultistepScheduler(**FLOW),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm": lambda: DPMSolverMultistepScheduler(**FLOW),
}
IGNORED_STATS = ("denoise_seconds",)


@dataclass(frozen=True)
class Request:
    """One call; ``pause`` is a step after which guidance is off, and two steps later on again."""

    size: int = 0
    steps: int = STEPS
    batch: int = 1
    prompt: int = 0
    guidance: float = 4.0
    pause: int | None = None


@dataclass(frozen=True)
class Subject:
    """How to build a pipeline, always with the same weights, and what may be asked of it.

    ``methods``: name -> what to enable, and the number of steps that it is for (None: any).
    """

    name: str
    build: Callable[[], Any]
    methods: dict[str, tuple[tuple[Any, ...], int | None]]
    sizes: tuple[dict[str, int], ...]

    def steps_of(self, method: str | None) -> int:
        """A number of steps that runs under the method."""
        planned = None if method is None else self.methods[method][1]
        return STEPS if planned is None else planned


METHODS: dict[str, tuple[tuple[Any, ...], int | None]] = {
    "dbcache": ((PROBE,), None),
    "lemica": ((SCHEDULE,), STEPS),
    "lemica, output": ((LeMiCaConfig(SCHEDULE.cache_schedule, reuse="output"),), STEPS),
    "planned": ((LeMiCaConfig(JOINT),), STEPS),
    "svg2": ((SPARSE,), None),
    "dbcache+svg2": ((PROBE, SPARSE), None),
    "lemica+svg2": ((SCHEDULE, SPARSE), STEPS),
}


def tiny_subject() -> Subject:
    """Four blocks with random weights."""
    sizes = tuple({"height": h, "width": w, "num_frames": f} for h, w, f in ((16, 32, 5), (16, 16, 1), (32, 32, 5)))
    return Subject("tiny", wan.tiny, {**METHODS, "preset": (("dbcache-fast",), None)}, sizes)


def demo_subject() -> Subject:
    """The embedded model in small pictures, with some of its presets, which are for 50 steps, besides."""
    presets = {name: ((name,), 50) for name in ("lemica-ultra", "planned-fast", "lemica-fast+svg2")}
    presets["dbcache-fast+svg2-turbo"] = (("dbcache-fast+svg2-turbo",), None)
    sizes = tuple({"height": h, "width": w, "num_frames": f} for h, w, f in ((16, 16, 2), (16, 16, 1), (16, 32, 2)))
    return Subject("digits-wan", dit_accel.load_demo_pipeline, {**METHODS, **presets}, sizes)


def two_denoisers_subject() -> Subject:
    """The tiny one with a second denoiser, which takes over midway."""

    def build() -> Any:
        pipe = wan.tiny()
        second = copy.deepcopy(pipe.transformer)
        torch.nn.init.normal_(second.proj_out.weight, generator=torch.Generator().manual_seed(3))
        return WanPipeline(**{**pipe.components, "transformer_2": second, "boundary_ratio": 0.85})

    return dataclasses.replace(tiny_subject(), name="tiny, two denoisers", build=build)


SUBJECTS = {"tiny": tiny_subject, "two denoisers": two_denoisers_subject, "demo": demo_subject}


class Fresh:
    """What pipelines make that have never made anything else, each answer looked up once."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self._pristine = subject, build(subject)
        self._found: dict[tuple[str | None, str, Request], tuple[Tensor, dict[str, Any] | None]] = {}

    def pipeline(self) -> Any:
        """One that has never run."""
        return copy.deepcopy(self._pristine)

    def answer(self, method: str | None, scheduler: str, request: Request) -> tuple[Tensor, dict[str, Any] | None]:
        """The output, and the stats if it is accelerated."""
        key = (method, scheduler, request)
        if key not in self._found:
            pipe = self.pipeline()
            pipe.scheduler = SCHEDULERS[scheduler]()
            if method is None:
                self._found[key] = call(pipe, self._subject, request), None
            else:
                with enable_acceleration(pipe, *self._subject.methods[method][0]) as acceleration:
                    self._found[key] = call(pipe, self._subject, request), comparable(acceleration.stats)
        return self._found[key]


def build(subject: Subject) -> Any:
    """A pipeline that shows no progress."""
    pipe = subject.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def comparable(stats: Any) -> dict[str, Any]:
    """Everything in the stats but times."""
    return {name: value for name, value in stats.to_dict().items() if name not in IGNORED_STATS}
