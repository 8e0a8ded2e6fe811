"""`StepTracker`: step, trajectory and CFG branch of a denoiser call, told by diffusers and not by counting calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import UnsupportedPipelineError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_NEAR = 1e-5  # relative: the same float32 number, whatever was done to it
_EDGE = 1e-3  # a step of training; at pure noise, and at none, the ratio's logarithm has no end
Stamp = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One forward of a denoiser: which, for which CFG branch, at which step of which trajectory.

    ``times`` gives the model time of every step, see `model_times`.
    """

    denoiser: str
    branch: str
    step: int
    num_steps: int
    trajectory: int
    times: Callable[[], list[float]] | None = field(default=None, compare=False, repr=False)


class StepTracker:
    """Identifies denoiser calls of one pipeline, of all its denoisers. ``pipe`` may be a weak proxy of it.

    * Trajectory: a new ``scheduler.timesteps`` tensor (every ``set_timesteps`` makes one), or a step that goes
      backwards (a long video made in sections on the same grid).
    * Step: the ``step_index`` given to ``cache_context``; else the scheduler's ``step_index``; else where the current
      timestep stands in the grid; else one more whenever the timestep changes.
    * Branch: the name given to ``cache_context``; else ``call0``, ``call1``, … by the order within the step.

    A timestep that is a view of the grid is located by its address. Only a pipeline that copied it, with a scheduler
    that has no ``step_index``, costs a read from the device at each call.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._pipe = pipe
        self._timesteps: Tensor | None = None
        self._grid: list[float] = []
        self._trajectory = self._step = -1
        self._stamp: Stamp | None = None
        self._calls: dict[tuple[str, str | None], int] = {}

    def observe(self, denoiser: str, context: dict[str, Any], timestep: Tensor | None = None) -> DenoiserCall:
        """Identify the call that begins now.

        Args:
            denoiser: its attribute name on the pipeline.
            context: what the pipeline passed to ``cache_context``, empty without.
            timestep: the denoiser's timestep argument, of any shape.

        Raises:
            UnsupportedPipelineError: the scheduler has no ``timesteps``.
        """
        scheduler = self._pipe.scheduler
        self._take_grid(getattr(scheduler, "timesteps", None))
        key = (denoiser, context.get("name"))
        step, stamp = context.get("step_index"), None
        if step is None:
            step = getattr(scheduler, "step_index", None)
        if step is None:
            step, stamp = self._locate(timestep)
            is_next = step is None and key[1] is not None and key in self._calls  # off the grid a name tells
            has_moved = stamp != self._stamp or is_next
        else:
            has_moved = step != self._step
        if has_moved or self._step < 0:
            self._move_to(self._step + 1 if step is None else step)
        self._stamp = stamp
        return self._call(key, context)

    def _take_grid(self, timesteps: Tensor | None) -> None:
        if timesteps is self._timesteps is not None:
            return
        if timesteps is None:
            raise UnsupportedPipelineError(
                f"The scheduler of {self._pipe.__class__.__name__}, {type(self._pipe.scheduler).__name__}, has no "
                "timesteps while the denoiser runs, so steps cannot be told apart. Use a diffusers scheduler."
            )
        self._timesteps, self._grid = timesteps, []
        self._trajectory += 1
        self._step, self._stamp = -1, None

    def _move_to(self, step: int) -> None:
        if step < self._step:
            self._trajectory += 1
        self._step = step
        self._calls.clear()

    def _call(self, key: tuple[str, str | None], context: dict[str, Any]) -> DenoiserCall:
        assert self._timesteps is not None
        repeat = self._calls.get(key, 0)
        self._calls[key] = repeat + 1
        denoiser, name = key
        branch = f"call{repeat}" if name is None else name if repeat == 0 else f"{name}#{repeat}"
        num_steps = context.get("num_inference_steps") or self._num_steps()
        return DenoiserCall(denoiser, branch, self._step, num_steps, self._trajectory, self._times)

    def _times(self) -> list[float]:
        assert self._timesteps is not None
        return model_times(self._pipe.scheduler, self._timesteps)

    def _num_steps(self) -> int:
        """Steps of the grid. One that is as long as the sigmas has their terminal zero, at which nothing runs."""
        assert self._timesteps is not None
        sigmas = getattr(self._pipe.scheduler, "sigmas", None)
        has_terminal = sigmas is not None and len(sigmas) == len(self._timesteps)
        return len(self._timesteps) - has_terminal

    def _locate(self, timestep: Tensor | None) -> tuple[int | None, Stamp | None]:
        """Step of the current timestep, None if it is not on the grid; and what tells it from the next one."""
        scheduler, current = self._pipe.scheduler, getattr(self._pipe, "_current_timestep", None)
        for candidate in (current, timestep):
            index = _position_in(self._timesteps, candidate)
            if index is not None:
                return index, (float(index),)
        given = current if timestep is None else timestep
        stamp = tuple(given.detach().double().flatten().tolist()) if isinstance(given, Tensor) else ()
        if isinstance(given, (int, float)):
            stamp = (float(given),)
        if not self._grid and self._timesteps is not None:
            self._grid = self._timesteps.double().flatten().tolist()
        # Image-to-video sets the timestep of given frames to 0: the largest is that of the step.
        largest = max(stamp, default=math.nan)
        index = next((k for k, time in enumerate(self._grid) if abs(time - largest) <= _NEAR * abs(time)), None)
        if index is None and self._step < 0 and hasattr(scheduler, "step_index"):  # None until its first step
            index = getattr(scheduler, "begin_index", None) or 0
        return index, stamp or None


def model_times(scheduler: Any, timesteps: Tensor) -> list[float]:
    """The log signal-to-noise ratio of every step: the time in which residuals move most nearly on a straight line.

    log((1 − σ) / σ) under flow matching, whose sigmas end at 1; −log σ of larger sigmas; of ``alphas_cumprod`` where a
    scheduler has no sigmas; the bare timesteps where it has neither. One read from the device.
    """
    sigmas, alphas = getattr(scheduler, "sigmas", None), getattr(scheduler, "alphas_cumprod", None)
    if sigmas is not None and len(sigmas) >= len(timesteps):
        sigma = torch.as_tensor(sigmas)[: len(timesteps)].detach().cpu().double()
        is_flow = float(sigma.max()) <= 1
        return (torch.logit(1 - sigma, eps=_EDGE) if is_flow else -sigma.clamp(min=_EDGE).log()).tolist()
    if alphas is not None:
        return (torch.logit(alphas[timesteps.detach().cpu().long()].double(), eps=_EDGE) / 2).tolist()
    return timesteps.double().tolist()


def _position_in(grid: Tensor | None, timestep: object) -> int | None:
    """Index of an element of ``grid`` that ``timestep`` is a view of (a row of the loop, expanded or not)."""
    if not isinstance(timestep, Tensor) or grid is None or timestep.numel() == 0:
        return None
    is_view = (
        timestep.dtype == grid.dtype
        and timestep.device == grid.device
        and (timestep.numel() == 1 or not any(timestep.stride()))  # one element, however often it is repeated
        and timestep.untyped_storage().data_ptr() == grid.untyped_storage().data_ptr()
    )
    if not is_view:
        return None
    return (timestep.storage_offset() - grid.storage_offset()) // max(grid.stride(0), 1)
