"""Who decides whether a step is computed. A policy is a pure function of the call and of what has run; no tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from ..configs import DBCacheConfig
from ..errors import ScheduleMismatchError
from ..run_record import Progress
from ..schedule import CacheSchedule
from ..step_tracker import DenoiserCall
from .forecast import ORDERS, taylor_weights

Distance = Callable[[], float]


class CachePolicy(Protocol):
    """Decides once a step, for all branches of the step.

    ``uses_probe`` says whether `is_compute` may ask for the distance; ``num_values`` is how many compute steps' values
    a reuse step needs at most; ``needs_times``, whether `weights` looks at the model times.
    """

    uses_probe: bool
    num_values: int
    needs_times: bool

    def check(self, call: DenoiserCall) -> None:
        """Raise if the trajectory that begins with this call cannot be run under the policy."""

    def is_compute(self, call: DenoiserCall, progress: Progress, distance: Distance) -> bool:
        """Whether the cached blocks run at this step."""

    def last_use(self, step: int, num_steps: int) -> int:
        """The last step that may reuse what was computed at ``step``; ``step`` or less if none."""

    def weights(self, step: int, kept_steps: Sequence[int], times: Sequence[float]) -> Sequence[float]:
        """What the newest kept values are multiplied by, to be summed up at reuse step ``step``; newest last."""


class SchedulePolicy:
    """Computes the steps of a `CacheSchedule` (LeMiCa). Needs no tensor, so it costs nothing to decide.

    Args:
        schedule: the compute steps, and how each other step is made from them.
        forecast: ``"schedule"`` follows the weights in the schedule; any other is used at all steps instead.
        reuse_steps: those that are reused; None: all but the compute steps. At others blocks run, and nothing is kept.
    """

    uses_probe = False

    def __init__(
        self, schedule: CacheSchedule, forecast: str = "schedule", reuse_steps: Collection[int] | None = None
    ) -> None:
        self._schedule = schedule
        others = set(range(schedule.num_steps)) - set(schedule.compute_steps)
        self._reuse_steps = frozenset(others if reuse_steps is None else reuse_steps)
        self._order = ORDERS.get(forecast)
        self.needs_times = bool(self._order)
        sources = {step: schedule.sources(step, self._num_values_at(step)) for step in self._reuse_steps}
        self.num_values = max(map(len, sources.values()), default=1)
        self._sources = sources
        self._last_use = _last_uses(schedule.num_steps, sources, others - self._reuse_steps)

    def _num_values_at(self, step: int) -> int:
        return len(self._schedule.weights(step)) if self._order is None else self._order + 1

    def check(self, call: DenoiserCall) -> None:
        """Raise `ScheduleMismatchError` unless the run has the planned number of steps."""
        require_num_steps(self._schedule, call.num_steps)

    def is_compute(self, call: DenoiserCall, progress: Progress, distance: Distance) -> bool:
        """Whether the step is none of the reuse steps."""
        return call.step not in self._reuse_steps

    def last_use(self, step: int, num_steps: int) -> int:
        """The last reuse step before compute steps that are newer have taken over."""
        return self._last_use[step]

    def weights(self, step: int, kept_steps: Sequence[int], times: Sequence[float]) -> Sequence[float]:
        """Those of the schedule, if what is kept is what it counts on; a branch that joined late holds the newest."""
        if self._order is not None:
            return taylor_weights(step, kept_steps[-self._order - 1 :], times)
        weights = self._schedule.weights(step)
        return weights if tuple(kept_steps[-len(weights) :]) == self._sources[step] else (1.0,)


class DBCachePolicy:
    """Computes where the probe blocks' residual has moved by the threshold or more since the last compute step."""

    uses_probe = True

    def __init__(self, config: DBCacheConfig) -> None:
        self._config = config
        self._forced = frozenset(config.forced_steps)
        self.num_values = ORDERS[config.forecast] + 1
        self.needs_times = self.num_values > 1

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

    def weights(self, step: int, kept_steps: Sequence[int], times: Sequence[float]) -> Sequence[float]:
        """The polynomial through all that is kept."""
        return taylor_weights(step, kept_steps, times)

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


def _last_uses(num_steps: int, sources: Mapping[int, tuple[int, ...]], unused: Collection[int]) -> list[int]:
    """For every step, the last reuse step that may be made from it; -1 if there is none, or it is ``unused``.

    Also for reuse steps: one may compute after all (a new denoiser, a branch that joins late).
    """
    uses = [-1] * num_steps
    for step, steps in sources.items():
        for source in set(range(steps[0], step)) - set(unused):
            uses[source] = max(uses[source], step)
    return uses
