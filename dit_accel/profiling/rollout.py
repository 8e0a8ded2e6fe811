"""One batch of videos: its full trajectory, and the rollouts that measure single edges of it.

A rollout of edge i→j replays the recorded denoiser outputs of steps 0 … i−1 (no compute; latents and scheduler history
arrive at step i exactly as in the full run), computes step i, reuses it up to j−1 and computes j … N−1, all through
the executor that users run. Its error is the mean absolute difference of the final latents from the full run's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .._diffusers import denoisers_of
from ..cache.install import install_policy
from ..cache.policies import SchedulePolicy
from ..errors import JobError
from ..installation import Installation
from ..registry import find_spec
from ..schedule import CacheSchedule
from ..step_tracker import StepTracker
from .tape import OutputTape

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
        """Run the full trajectory and write its outputs and final latents to ``path``, atomically.

        Raises:
            JobError: the run diverges, or the file cannot be written.
        """
        final = self._run(replay_until=0, reuse=None)
        if not bool(final.isfinite().all()):
            raise JobError(f"The full run of {self._batch} ends in NaN or infinity. Check dtype and guidance_scale.")
        temporary = path.with_suffix(".tmp")
        tensors = {key: value.cpu().contiguous() for key, value in self._tape.outputs.items()}
        try:
            save_file({**tensors, _FINAL: final.cpu().contiguous()}, temporary)
            with temporary.open("rb") as file:  # on the disk before it has its name
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, SafetensorError) as problem:
            temporary.unlink(missing_ok=True)
            raise JobError(f"{path} cannot be written: {problem}. Free some space, or use another workdir.") from None
        self._final = final

    def load(self, path: Path) -> None:
        """Take up a trajectory that `record` wrote.

        Raises:
            JobError: the file was damaged from outside.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as problem:
            raise JobError(f"{path} is damaged ({problem}). Delete it, and run the job again.") from None
        if _FINAL not in tensors or len(tensors[_FINAL]) != len(self._batch.prompts):
            raise JobError(f"{path} does not hold a trajectory of this job. Delete it, and run the job again.")
        device = self._pipe._execution_device
        self._final = tensors.pop(_FINAL).to(device)
        self._tape.outputs = {key: tensor.to(device) for key, tensor in tensors.items()}

    def measure(self, start: int, stop: int) -> list[float]:
        """Error of edge ``start``→``stop`` for each video of the batch: mean L1 of the final latents, at least 0.

        Raises:
            JobError: a run with this stretch of reuse diverges.
        """
        assert self._final is not None, "record or load comes first"
        final = self._run(replay_until=start, reuse=(start, stop))
        errors = [float(error) for error in (final - self._final).abs().flatten(1).double().mean(1)]
        if not all(map(math.isfinite, errors)):
            raise JobError(
                f"Reusing step {start} up to step {stop - 1} ends in NaN or infinity for {self._batch}. Use a smaller "
                "max_segment, or a dtype with a larger range."
            )
        return errors

    def _run(self, *, replay_until: int, reuse: tuple[int, int] | None) -> Tensor:
        """Final latents of one call of the pipeline."""
        start, stop = reuse or (0, 1)
        compute = [step for step in range(self._num_steps) if step <= start or step >= stop]
        with ExitStack() as undo:
            policy = SchedulePolicy(CacheSchedule(self._num_steps, tuple(compute)))
            installation = Installation(self._pipe, self._spec, undo)
            install_policy(installation, policy)
            installation.start()
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
