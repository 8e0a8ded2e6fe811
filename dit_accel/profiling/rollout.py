"""One batch of videos: its full trajectory, and the rollouts that measure single edges of it.

A rollout of edge i→j replays the recorded denoiser outputs of steps 0 … i−1 (no compute; latents and scheduler history
arrive at step i exactly as in the full run), computes step i, reuses it up to j−1 and computes j … N−1, all through
the executor that users run. A forecast that needs earlier steps computes those of `history` too, which changes no
latent. The error is the mean absolute difference of the final latents from the full run's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from .._diffusers import CallObserver
from ..actions import PartialSteps, SparseSteps
from ..documents import replacing
from ..errors import JobError
from ..installation import Installation
from ..registry import find_spec
from ..schedule import CacheSchedule
from ..scheduled import install_schedule
from ..step_tracker import StepTracker
from .residual_model import FORECASTS, ResidualModel, history
from .residuals import ResidualSampler
from .tape import OutputTape

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline
    from numpy.typing import NDArray

_FINAL = "final"
_STATISTICS = _GRAM, _ELEMENTS, _TIMES = "residual_gram", "residual_elements", "model_times"


PARTIAL, SPARSE = "partial", "sparse"


@dataclass(frozen=True)
class Rollout:
    """One edge, and what is done on it.

    A name of `FORECASTS`: how the steps between its ends are made. ``"partial"``: at these steps some blocks run.
    ``"sparse"``, of an edge of length 1: step ``start`` is computed with sparse attention.
    """

    start: int
    stop: int
    action: str = "hold"

    @property
    def edge(self) -> tuple[int, int]:
        """Its ends."""
        return self.start, self.stop

    @property
    def computed_before(self) -> tuple[int, ...]:
        """The steps up to ``start`` that are computed, ``start`` among them."""
        if self.action == SPARSE:
            return (self.start,)
        return history(self.start, self.stop, FORECASTS.get(self.action, FORECASTS["fitted"]))

    def cost_steps(self, num_steps: int) -> int:
        """Full denoiser steps of a video: those before, and ``stop`` to the end."""
        return len(self.computed_before) + num_steps - self.stop


@dataclass(frozen=True)
class Batch:
    """Prompts that are denoised together with one seed each video: video k of the batch uses ``seed``, prompt k."""

    prompts: tuple[str, ...]
    seed: int


class BatchRunner:
    """Runs one `Batch` on a pipeline, in full or with one stretch of reuse.

    Args:
        pipe: a supported pipeline that is not accelerated.
        batch: prompts and seed.
        num_steps: ``num_inference_steps`` of every run.
        inputs: further keyword arguments of the pipeline call.
    """

    def __init__(self, pipe: DiffusionPipeline, batch: Batch, num_steps: int, inputs: Mapping[str, Any]) -> None:
        self._pipe, self._batch, self._num_steps, self._inputs = pipe, batch, num_steps, inputs
        self._spec = find_spec(pipe)
        self._tape = OutputTape()
        self._final: Tensor | None = None

    def record(self, path: Path) -> None:
        """Run the full trajectory and write its outputs and final latents to ``path``, atomically.

        Raises:
            JobError: the run diverges, or the file cannot be written.
        """
        sampler = ResidualSampler()
        final = self.run(CacheSchedule(self._num_steps, tuple(range(self._num_steps))), sampler=sampler)
        if not bool(final.isfinite().all()):
            raise JobError(f"The full run of {self._batch} ends in NaN or infinity. Check dtype and guidance_scale.")
        tensors = {key: value.cpu().contiguous() for key, value in self._tape.outputs.items()}
        gram = sampler.gram(self._num_steps) if len(sampler.times) == self._num_steps else None
        if gram is not None:
            tensors |= {_GRAM: gram[0], _ELEMENTS: torch.tensor(gram[1]), _TIMES: torch.tensor(sampler.times).double()}
        try:
            with replacing(path, path.with_suffix(".tmp")) as temporary:
                save_file({**tensors, _FINAL: final.cpu().contiguous()}, temporary)
        except (OSError, SafetensorError) as problem:
            raise JobError(f"{path} cannot be written: {problem}. Free some space, or use another workdir.") from None
        self._final = final

    def load(self, source: Path | NDArray[np.uint8]) -> None:
        """Take up a trajectory that `record` wrote.

        Args:
            source: its file, or the bytes of that.

        Raises:
            JobError: the file was damaged from outside.
        """
        origin = source if isinstance(source, Path) else "A trajectory that came over the network"
        try:
            tensors = load_file(source) if isinstance(source, Path) else load(source.tobytes())
        except (OSError, SafetensorError) as problem:
            raise JobError(f"{origin} is damaged ({problem}). Delete it, and run the job again.") from None
        if _FINAL not in tensors or len(tensors[_FINAL]) != len(self._batch.prompts):
            raise JobError(f"{origin} does not hold a trajectory of this job. Delete it, and run the job again.")
        for name in _STATISTICS:
            tensors.pop(name, None)
        device = self._pipe._execution_device
        self._final = tensors.pop(_FINAL).to(device)
        self._tape.outputs = {key: tensor.to(device) for key, tensor in tensors.items()}

    def measure(self, rollout: Rollout, settings: RolloutSettings) -> list[float]:
        """Error of one edge for each video of the batch: mean L1 of the final latents, at least 0.

        Raises:
            JobError: a run with this stretch of reuse diverges.
        """
        return self.errors_of(settings.schedule(rollout, self._num_steps), rollout.computed_before)

    def errors_of(self, schedule: CacheSchedule, computed: Collection[int] | None = None) -> list[float]:
        """Error of a run under ``schedule`` for each video of the batch.

        Args:
            schedule: what is computed.
            computed: up to the last of these, steps that are not among them are replayed; None replays nothing.

        Raises:
            JobError: the run diverges.
        """
        assert self._final is not None, "record or load comes first"
        replayed = () if computed is None else set(range(max(computed))) - set(computed)
        final = self.run(schedule, replayed)
        errors = [float(error) for error in (final - self._final).abs().flatten(1).double().mean(1)]
        if not all(map(math.isfinite, errors)):
            raise JobError(
                f"A run that computes the steps {list(schedule.compute_steps)} ends in NaN or infinity for "
                f"{self._batch}. Use a smaller max_segment, or a dtype with a larger range."
            )
        return errors

    def run(
        self,
        schedule: CacheSchedule,
        replayed: Collection[int] = (),
        *,
        sampler: ResidualSampler | None = None,
        observer: CallObserver | None = None,
    ) -> Tensor:
        """Final latents of one call of the pipeline.

        Args:
            schedule: what each step does.
            replayed: steps that are taken from the tape instead.
            sampler, observer: watch the run.
        """
        with ExitStack() as undo:
            installation = Installation(self._pipe, self._spec, undo)
            install_schedule(installation, schedule)
            self._tape.replayed = replayed
            tracker = StepTracker(self._pipe)
            for name, denoiser in installation.denoisers.items():
                if sampler is not None:
                    undo.callback(sampler.install(name, denoiser, self._spec.denoisers[name]))
                    installation.observe(name, sampler)
                if observer is not None:
                    installation.observe(name, observer)
                undo.callback(self._tape.install(name, denoiser, tracker))
            installation.start()
            generators = [torch.Generator("cpu").manual_seed(self._batch.seed) for _ in self._batch.prompts]
            output = self._pipe(
                prompt=list(self._batch.prompts),
                num_inference_steps=self._num_steps,
                generator=generators,
                output_type="latent",
                return_dict=False,
                **self._inputs,
            )
        latents: Tensor = output[0]
        return latents


@dataclass(frozen=True)
class RolloutSettings:
    """What rollouts of each action need to know.

    Args:
        model: weights of forecasts; None: only to hold can be rolled out, and partial steps hold.
        partial_blocks: probe and corrector blocks of partial steps.
        sparse_config: fields of `SVG2Config` of sparse steps.
    """

    model: ResidualModel | None = None
    partial_blocks: tuple[int, int] = (1, 0)
    sparse_config: Mapping[str, Any] | None = None

    def schedule(self, rollout: Rollout, num_steps: int) -> CacheSchedule:
        """What a rollout runs; steps before its ``start`` that it does not need are replayed, whatever this says."""
        start, stop, before = rollout.start, rollout.stop, rollout.computed_before
        compute = tuple(sorted({0, *before, *range(stop, num_steps)}))
        if rollout.action == SPARSE:
            return CacheSchedule(num_steps, compute, sparse=SparseSteps((start,), self.sparse_config or {}))
        between = tuple(range(start + 1, stop))
        partial = PartialSteps(between, *self.partial_blocks) if rollout.action == PARTIAL else None
        forecast = "fitted" if rollout.action == PARTIAL else rollout.action
        if self.model is None or forecast == "hold":
            assert rollout.action in ("hold", PARTIAL), "forecasts need the model"
            return CacheSchedule(num_steps, compute, partial=partial)
        weights = {step: self.model.weights(forecast, before, step) for step in between}
        return CacheSchedule(num_steps, compute, forecasts=weights, partial=partial)


def read_model(paths: Iterable[Path]) -> ResidualModel | None:
    """The residual model over the trajectories that `BatchRunner.record` wrote; None if one of them has none.

    Raises:
        JobError: a file was damaged from outside.
    """
    grams, counts, times = [], [], None
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                if not set(_STATISTICS) <= set(file.keys()):
                    return None
                grams.append(file.get_tensor(_GRAM))
                counts.append(int(file.get_tensor(_ELEMENTS)))
                times = file.get_tensor(_TIMES).tolist()
        except (OSError, SafetensorError) as problem:
            raise JobError(f"{path} is damaged ({problem}). Delete it, and run the job again.") from None
    return ResidualModel(tuple(times or ()), (sum(grams) / sum(counts)).numpy())
