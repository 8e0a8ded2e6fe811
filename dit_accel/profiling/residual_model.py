"""`ResidualModel`: what recorded trajectories tell about edges that nobody has rolled out.

The residuals R_k of the steps of a full run are known, so the local error of *any* linear forecast of step k from
other steps follows from their inner products G[i, j] = ⟨R_i, R_j⟩ alone: with weights w of steps P,
‖R_k − Σ w_p R_p‖² = G[k, k] − 2 w·G[P, k] + w·G[P, P]·w. How much of it arrives in the final sample is the *gain* of
the step, measured by a few rollouts and interpolated. The estimate of an edge is Σ gain_k · local error_k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..cache.forecast import taylor_weights
from ..documents import is_number, quoted
from ..errors import GraphError

Edge = tuple[int, int]
# Forecast -> how many of the last compute steps it is made from, at most.
FORECASTS = {"hold": 1, "scaled": 1, "taylor1": 2, "taylor2": 3, "fitted": 3}
# For all edges of a schedule alike. Where errors pile up it beats what fits better, as its weights add up to 1 and are
# small. Edges that are measured one by one do not show that, whole runs do: see `polish`.
SLOPE = "slope"
_RIDGE = 1e-6  # of the mean squared residual: keeps fitted weights of nearly equal residuals small
_LAST_STEPS = 2  # multistep solvers lower their order there: their gains go by position, not by noise level
# What is not finite in the end, models and graphs refuse.
UNLIMITED = np.errstate(over="ignore", invalid="ignore", divide="ignore")
_LARGEST_EXPONENT = 700.0  # beyond, exp overflows
_SMALLEST_STEP = 1e-6  # of the noise level; second-order schedulers visit a level twice


def noise_levels(times: Sequence[float]) -> np.ndarray:
    """The share of noise at model times, that are log signal-to-noise ratios, or bare timesteps and then large."""
    return 1 / (1 + np.exp(np.clip(np.array(times), -_LARGEST_EXPONENT, _LARGEST_EXPONENT)))


def history(start: int, stop: int, num_values: int) -> tuple[int, ...]:
    """The compute steps that edge ``start``→``stop`` is measured with: ``start``, and evenly before it.

    On a good path neighbouring edges are about equally long, so the steps before are taken at the edge's own distance.
    """
    gap = stop - start
    steps = [start]
    while len(steps) < num_values and steps[-1] > 0:
        steps.append(max(0, steps[-1] - gap))
    return tuple(reversed(steps))


@dataclass(frozen=True, eq=False)
class ResidualModel:
    """Inner products of residuals and gains of steps; estimates errors of edges from them.

    Args:
        times: model time of every step (the log signal-to-noise ratio), see `dit_accel.step_tracker.model_times`.
        gram: [num_steps, num_steps], mean over elements of R_i · R_j, all branches and videos together.
        gains: per step, mean L1 of the final sample for one unit of RMS error of its residual; empty if not measured.

    Raises:
        GraphError: lengths do not agree, or a value is not finite.
    """

    times: tuple[float, ...]
    gram: np.ndarray
    gains: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.times)
        if count < 2 or self.gram.shape != (count, count) or len(self.gains) not in (0, count):
            raise GraphError(
                f"A residual model of {count} times needs a matrix of {count} x {count} and as many gains or none, "
                f"got {self.gram.shape} and {len(self.gains)}."
            )
        # Exactly symmetric, as a file holds one half of it.
        object.__setattr__(self, "gram", np.tril(self.gram) + np.tril(self.gram, -1).T)
        if not np.isfinite(self.gram).all() or not all(map(math.isfinite, (*self.times, *self.gains))):
            raise GraphError("A residual model holds a value that is not finite. Profile again.")
        if min(self.gains, default=1.0) <= 0:
            raise GraphError(f"Gains of a residual model must be above 0, got {quoted(self.gains)}. Profile again.")

    @property
    def num_steps(self) -> int:
        """Model steps of the trajectory."""
        return len(self.times)

    @cached_property
    def step_sizes(self) -> np.ndarray:
        """[num_steps]: how much the noise level falls at each step; it is 1 / (1 + exp(time)), and 0 at the end."""
        levels = np.append(noise_levels(self.times), 0.0)
        return np.maximum(levels[:-1] - levels[1:], _SMALLEST_STEP)

    def weights(self, forecast: str, steps: Sequence[int], step: int) -> tuple[float, ...]:
        """What the residuals of the last compute steps (``steps``, newest last) are multiplied by at ``step``.

        ``"fitted"`` and ``"scaled"`` minimise the squared local error over all that was recorded, with three steps and
        with one. ``"taylor1"`` and ``"taylor2"`` are polynomials in model time. ``"slope"`` goes along the line
        through the last two, halfway between as far as ``"taylor1"`` and as far as minimises the error: what was
        recorded of few videos is not to decide alone.
        """
        used = list(steps[-(2 if forecast == SLOPE else FORECASTS[forecast]) :])
        if forecast == "hold" or (forecast == SLOPE and len(used) == 1):
            return (1.0,)
        if forecast.startswith("taylor"):
            return tuple(map(float, taylor_weights(step, used, self.times)))
        ridge = _RIDGE * float(np.trace(self.gram)) / self.num_steps
        inner, wanted = self.gram[np.ix_(used, used)] + ridge * np.eye(len(used)), self.gram[used, step]
        try:
            if forecast == SLOPE:
                line = np.array([-1.0, 1.0])
                fitted = np.linalg.solve([[line @ inner @ line]], [line @ (wanted - self.gram[used, used[1]])])[0]
                far = (fitted - taylor_weights(step, used, self.times)[0]) / 2
                return float(-far), float(1 + far)
            return tuple(map(float, np.linalg.solve(inner, wanted)))
        except np.linalg.LinAlgError:
            raise GraphError(f"Steps {used} have no residuals that a forecast could be fitted to.") from None

    @UNLIMITED
    def local_error(self, steps: Sequence[int], weights: Sequence[float], step: int) -> float:
        """RMS difference of the forecast residual from the true one at ``step``."""
        used = [*steps[-len(weights) :], step]
        signed = np.array([*weights, -1.0])
        square = float(signed @ self.gram[np.ix_(used, used)] @ signed)
        return math.sqrt(max(square, 0.0))  # in this order a NaN stays one

    def estimate(self, start: int, stop: int, forecast: str, steps: Sequence[int] = ()) -> float:
        """Estimated error of edge ``start``→``stop``; ``steps`` are the compute steps up to ``start``, else `history`.

        Raises:
            GraphError: gains were not measured.
        """
        if not self.gains:
            raise GraphError("This graph holds no gains, so errors cannot be estimated. Profile with mode='lazy'.")
        known = steps or history(start, stop, FORECASTS[forecast])
        return sum(
            self.gains[step] * self.local_error(known, self.weights(forecast, known, step), step)
            for step in range(start + 1, stop)
        )

    @UNLIMITED
    def with_gains(self, errors: Mapping[Edge, float]) -> ResidualModel:
        """The model with gains from measured edges k−1→k+1 with hold, between them interpolated.

        Interpolated is the logarithm of gain over `step_sizes`, linearly in model time.

        Raises:
            GraphError: no such edge has a positive error.
        """
        known = {}
        for (start, stop), error in errors.items():
            local = self.local_error((start,), (1.0,), start + 1)
            if stop == start + 2 and error > 0 and local > 0:
                known[start + 1] = math.log(error / local / self.step_sizes[start + 1])
        if not known:
            raise GraphError("No rollout of two steps has an error above 0, so no gain can be told from them.")
        steps = sorted(known)
        density = np.interp(self.times, [self.times[k] for k in steps], [known[k] for k in steps])
        return replace(self, gains=tuple(map(float, np.exp(density) * self.step_sizes)))

    @UNLIMITED
    def resample(self, times: Sequence[float]) -> ResidualModel:
        """The model on another grid of model times: residuals by cubic interpolation, gains as a density.

        The density is a function of model time, but at the last two steps, which keep theirs.

        Raises:
            GraphError: the times do not increase.
        """
        for grid in (self.times, times):
            if len(grid) < 2 or any(later <= earlier for earlier, later in pairwise(grid)):
                raise GraphError(f"Only grids whose model times increase can be resampled, got {quoted(list(grid))}.")
        rows = np.array([_interpolation(self.times, time) for time in times])
        other = ResidualModel(tuple(map(float, times)), rows @ self.gram @ rows.T)
        if not self.gains:
            return other
        known = np.log(np.array(self.gains) / self.step_sizes)
        ends = min(_LAST_STEPS, self.num_steps - 2, len(times) - 1)
        inner = self.num_steps - ends
        density = np.append(np.interp(times[: len(times) - ends], self.times[:inner], known[:inner]), known[inner:])
        return replace(other, gains=tuple(map(float, np.exp(density) * other.step_sizes)))

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the symmetric matrix the lower half."""
        half = [[float(value) for value in row[: k + 1]] for k, row in enumerate(self.gram)]
        return {"times": list(self.times), "gains": list(self.gains), "gram": half}

    @classmethod
    def from_json(cls, value: object) -> ResidualModel:
        """What `to_json` gave.

        Raises:
            GraphError: it is anything else.
        """
        if not isinstance(value, dict) or set(value) != {"times", "gains", "gram"}:
            raise GraphError(f"model must be null or have the keys times, gains and gram, got {quoted(value)}.")
        for row in (value["times"], value["gains"], *(value["gram"] if isinstance(value["gram"], list) else [None])):
            if not isinstance(row, list) or not all(map(is_number, row)):
                raise GraphError(f"model must hold lists of finite numbers, got {quoted(row)}.")
        count = len(value["times"])
        if [len(row) for row in value["gram"]] != list(range(1, count + 1)):
            raise GraphError(f"model.gram must be the lower half of a matrix of {count} x {count}.")
        gram = np.zeros((count, count))
        for k, row in enumerate(value["gram"]):
            gram[k, : k + 1] = gram[: k + 1, k] = row
        return cls(tuple(map(float, value["times"])), gram, tuple(map(float, value["gains"])))


def _interpolation(times: Sequence[float], time: float) -> np.ndarray:
    """[num_steps] weights of the polynomial through the four nearest steps."""
    left = min(max(0, int(np.searchsorted(times, time)) - 2), max(0, len(times) - 4))
    near = range(left, min(len(times), left + 4))
    row = np.zeros(len(times))
    for k in near:
        row[k] = math.prod((time - times[m]) / (times[k] - times[m]) for m in near if m != k)
    return row
