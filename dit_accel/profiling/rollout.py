"""One batch of videos: its full trajectory, and the rollouts that measure single edges of it.

A rollout of edge i→j replays the recorded denoiser outputs of steps 0 … i−1 (no compute; latents and scheduler history
arrive at step i exactly as in the full run), computes step i, reuses it up to j−1 and computes j … N−1, all through the
executor that users run. Its error is the mean absolute difference of the final latents from the full run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .._diffusers import OutputTape, StepTracker, denoisers_of
from ..cache.install import install_policy
from ..cache.policies import SchedulePolicy
from ..registry import find_spec
from ..schedule import CacheSchedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_FINAL = "final"


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
        """Run the full trajectory and write its outputs and final latents to ``path``, atomically."""
        final = self._run(replay_until=0, reuse=None)
        temporary = path.with_suffix(".tmp")
        save_file({**{k: v.cpu().contiguous() for k, v in self._tape.outputs.items()}, _FINAL: final.cpu()}, temporary)
        temporary.replace(path)
        self._final = final

    def load(self, path: Path) -> None:
        """Take up a trajectory that `record` wrote."""
        tensors = load_file(path)
        device = self._pipe._execution_device
        self._final = tensors.pop(_FINAL).to(device)
        self._tape.outputs = {key: tensor.to(device) for key, tensor in tensors.items()}

    def measure(self, start: int, stop: int) -> list[float]:
        """Error of edge ``start``→``stop`` for each video of the batch: mean L1 of the final latents, at least 0."""
        assert self._final is not None, "record or load comes first"
        final = self._run(replay_until=start, reuse=(start, stop))
        return [float(error) for error in (final - self._final).abs().flatten(1).double().mean(1)]

    def _run(self, *, replay_until: int, reuse: tuple[int, int] | None) -> Tensor:
        """Final latents of one call of the pipeline."""
        start, stop = reuse or (0, 1)
        compute = [step for step in range(self._num_steps) if step <= start or step >= stop]
        with ExitStack() as undo:
            install_policy(self._pipe, self._spec, SchedulePolicy(CacheSchedule(self._num_steps, tuple(compute))), undo)
            self._tape.replay_until = replay_until
            tracker = StepTracker(self._pipe)
            for name, denoiser in denoisers_of(self._pipe, self._spec.denoisers).items():
                undo.callback(self._tape.install(name, denoiser, tracker))
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


def rollout_cost_steps(num_steps: int, start: int, stop: int) -> int:
    """Full denoiser steps of one rollout: step ``start`` itself and ``stop`` to the end."""
    return 1 + num_steps - stop
