"""Who decides whether a step is computed. A policy is a pure function of the call and of what has run; no tensors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Protocol

from ..configs import DBCacheConfig
from ..errors import ScheduleMismatchError
from ..run_record import Progress
from ..schedule import CacheSchedule
from ..step_tracker import DenoiserCall
from .forecast import ORDERS

Distance = Callable[[], float]


class CachePolicy(Protocol):
    """Decides once a step, for all branches of the step.

    ``uses_probe`` says whether `is_compute` may ask for the distance; ``num_values`` is how many compute steps' values
    a reuse step needs.
    """

    uses_probe: bool
    num_values: int

    def check(self, call: DenoiserCall) -> None:
        """Raise if the trajectory that begins with this call cannot be run under the policy."""

    def is_compute(self, call: DenoiserCall, progress: Progress, distance: Distance) -> bool:
        """Whether the cached blocks run at this step."""

    def last_use(self, step: int, num_steps: int) -> int:
        """The last step that may reuse what was computed at ``step``; ``step`` or less if none."""


class SchedulePolicy:
    """Computes the steps of a `CacheSchedule` (LeMiCa). Needs no tensor, so it costs nothing to decide."""

    uses_probe = False

    def __init__(self, schedule: CacheSchedule, forecast: str = "hold") -> None:
        self._schedule = schedule
        self._compute = frozenset(schedule.compute_steps)
        self.num_values = ORDERS[forecast] + 1
        self._last_use = _last_uses(schedule, self.num_values)

    def check(self, call: DenoiserCall) -> None:
        """Raise `ScheduleMismatchError` unless the run has the planned number of steps."""
        require_num_steps(self._schedule, call.num_steps)

    def is_compute(self, call: DenoiserCall, progress: Progress, distance: Distance) -> bool:
        """Whether the schedule has the step."""
        return call.step in self._compute

    def last_use(self, step: int, num_steps: int) -> int:
        """The last reuse step before compute steps that are newer have taken over."""
        return self._last_use[step]


class DBCachePolicy:
    """Computes where the probe blocks' residual has moved by the threshold or more since the last compute step."""

    uses_probe = True

    def __init__(self, config: DBCacheConfig) -> None:
        self._config = config
        self._forced = frozenset(config.forced_steps)
        self.num_values = ORDERS[config.forecast] + 1

    def check(self, call: DenoiserCall) -> None:
        """Raise `ScheduleMismatchError` if ``compute_steps`` is a schedule for another number of steps."""
        if self._config.schedule is not None:
            require_num_steps(self._config.schedule, call.num_steps)

    def is_compute(self, call: DenoiserCall, progress: Progress, distance: Distance) -> bool:
        """The first rule that applies: warmup, forced or last step, the two limits, then the threshold."""
        config = self._config
        if call.step - progress.first_step < config.max_warmup_steps or self._is_forced(call.step, call.num_steps):
            return True
        if config.max_cached_steps is not None and progress.cached_steps >= config.max_cached_steps:
            return True
        limit = config.max_continuous_cached_steps
        if limit is not None and progress.continuous_cached_steps >= limit:
            return True
        return not distance() < config.residual_diff_threshold  # so that NaN computes

    def last_use(self, step: int, num_steps: int) -> int:
        """The last step that is not forced: until then anything may be reused."""
        last = num_steps - 1
        while last > step and self._is_forced(last, num_steps):
            last -= 1
        return last

    def _is_forced(self, step: int, num_steps: int) -> bool:
        return step in self._forced or (self._config.always_compute_last and step == num_steps - 1)


def require_num_steps(schedule: CacheSchedule, num_steps: int) -> None:
    """Raise `ScheduleMismatchError` unless the schedule is for runs of ``num_steps``."""
    planned = schedule.num_steps
    if num_steps != planned:
        raise ScheduleMismatchError(
            f"Schedule {schedule.name!r} was planned for {planned} steps, this run has {num_steps}. "
            f"Use num_inference_steps={planned}, or profile {num_steps} with: dit-accel profile JOB.toml"
        )


def _last_uses(schedule: CacheSchedule, num_values: int) -> list[int]:
    """For every step, the last reuse step that has it among its ``num_values`` newest compute steps.

    If there is none, a step that is no later. A reuse step may compute after all (a new denoiser, a branch that joins
    late): it then serves up to the next compute steps like any other.
    """
    compute, reuse = schedule.compute_steps, set(range(schedule.num_steps)) - set(schedule.compute_steps)
    previous_reuse = list(accumulate(range(schedule.num_steps), lambda last, k: k if k in reuse else last, initial=-1))
    uses = []
    for step in range(schedule.num_steps):
        taken_over = bisect_right(compute, step) + num_values - 1
        end = compute[taken_over] if taken_over < len(compute) else schedule.num_steps
        uses.append(previous_reuse[end])  # the newest of steps 0 … end − 1
    return uses
