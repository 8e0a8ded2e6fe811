"""Who decides whether a step is computed. A policy looks at the call only; the executor does the work."""

from __future__ import annotations

from typing import Protocol

from .._diffusers import DenoiserCall
from ..errors import ScheduleMismatchError
from ..schedule import CacheSchedule


class CachePolicy(Protocol):
    """Decides per call; the answer is the same for every branch of a step."""

    def check(self, call: DenoiserCall) -> None:
        """Raise if the trajectory that begins with this call cannot be run under the policy."""

    def is_compute(self, call: DenoiserCall) -> bool:
        """Whether the cached blocks run at this step."""

    def is_kept(self, call: DenoiserCall) -> bool:
        """Whether a residual computed at this step may be asked for later."""


class SchedulePolicy:
    """Computes the steps of a `CacheSchedule` (LeMiCa). Needs no tensor, so it costs nothing to decide."""

    def __init__(self, schedule: CacheSchedule) -> None:
        self._schedule = schedule
        self._compute = frozenset(schedule.compute_steps)

    def check(self, call: DenoiserCall) -> None:
        """Raise `ScheduleMismatchError` unless the run has the planned number of steps."""
        planned = self._schedule.num_steps
        if call.num_steps != planned:
            raise ScheduleMismatchError(
                f"Schedule {self._schedule.name!r} was planned for {planned} steps, this run has {call.num_steps}. "
                f"Use num_inference_steps={planned}, or profile {call.num_steps} with: dit-accel profile JOB.toml"
            )

    def is_compute(self, call: DenoiserCall) -> bool:
        """Whether the schedule has the step."""
        return call.step in self._compute

    def is_kept(self, call: DenoiserCall) -> bool:
        """Whether the next step is a reuse step."""
        following = call.step + 1
        return following < call.num_steps and following not in self._compute
