"""The user's knobs. A config is frozen and validated; its type selects the installer, run state lives elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from .errors import ConfigError
from .schedule import CacheSchedule

Forecast = Literal["hold"]


def require_choice(owner: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{owner}: {name}={value!r} is not allowed. Use one of: {', '.join(map(repr, allowed))}.")


@dataclass(frozen=True, slots=True)
class LeMiCaConfig:
    """Reuse whole denoiser steps by a schedule that was planned offline.

    At a *compute* step all blocks run and the residual of the block stack (exit minus entry) is kept; at a *reuse*
    step the blocks are skipped and the kept residual is added to the new entry. Embeddings, output head and scheduler
    always run. Cond and uncond follow the same schedule with a residual each.

    Args:
        schedule (`str`, `Path` or `CacheSchedule`):
            The compute steps: the name of a shipped schedule (``"digits-wan/lemica-fast"``), a schedule file, or the
            object. Fewer compute steps: faster, and further from the full run.
        reuse (`"residual"`):
            What is kept of a compute step.
        forecast (`"hold"`):
            How the kept residual is carried to a reuse step; ``"hold"`` leaves it as it is (zero order).

    Raises:
        ConfigError: a value outside those listed.
        ScheduleError: the file or name cannot be read as a schedule.

    Paper: LeMiCa (arXiv 2511.00090). Its set of full-compute steps under budget B is ``schedule.compute_steps``.
    """

    schedule: str | Path | CacheSchedule
    reuse: Literal["residual"] = "residual"
    forecast: Forecast = "hold"
    _resolved: CacheSchedule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_choice("LeMiCaConfig", "reuse", self.reuse, ("residual",))
        require_choice("LeMiCaConfig", "forecast", self.forecast, get_args(Forecast))
        object.__setattr__(self, "_resolved", CacheSchedule.resolve(self.schedule))

    @property
    def cache_schedule(self) -> CacheSchedule:
        """The schedule, loaded and validated."""
        return self._resolved


Config = LeMiCaConfig
