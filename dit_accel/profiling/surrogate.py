"""`Surrogate`: what an edge's error will probably be, and how surely, from estimates and the edges measured so far.

The logarithm of measured over estimated error is nearly the same for edges that lie close together, so a Gaussian
process over (start, stop, forecast) predicts it for the others, with its own standard deviation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from .rollout import Rollout

_FITTED_FROM = 12  # measured edges from which on the length scales are fitted to them
_SMALLEST = 1e-12  # an error of zero has no logarithm


@dataclass(frozen=True)
class Belief:
    """Log-normal belief about an error: ``middle``, and the standard deviation of its logarithm (0: measured)."""

    middle: float
    deviation: float

    def low(self, safety: float) -> float:
        """``safety`` standard deviations down."""
        return self.middle * math.exp(-safety * self.deviation)

    def high(self, safety: float) -> float:
        """``safety`` standard deviations up."""
        return self.middle * math.exp(safety * self.deviation)


class Surrogate:
    """Beliefs about the errors of ``estimates``.

    Args:
        estimates: every rollout that may be run -> its estimated error.
    """

    def __init__(self, estimates: Mapping[Rollout, float]) -> None:
        self._rollouts = list(estimates)
        self._logs = np.log(np.maximum(np.array(list(estimates.values())), _SMALLEST))
        self._index = {rollout: k for k, rollout in enumerate(self._rollouts)}
        self._actions = sorted({rollout.action for rollout in self._rollouts})
        self._features = np.array([self._feature(rollout) for rollout in self._rollouts])

    def _feature(self, rollout: Rollout) -> list[float]:
        kind = [float(rollout.action == action) for action in self._actions[1:]]
        return [float(rollout.start), float(rollout.stop), *kind]

    def beliefs(self, measured: Mapping[Rollout, float]) -> dict[Rollout, Belief]:
        """What is known of every rollout once ``measured`` (some of them -> their errors) is."""
        rows = [self._index[rollout] for rollout in measured]
        ratios = np.log(np.maximum(np.array(list(measured.values())), _SMALLEST)) - self._logs[rows]
        kinds = len(self._actions) - 1
        kernel = ConstantKernel(0.15**2, (0.1**2, 0.5**2)) * RBF(
            [2.0, 4.0, *[1.4] * kinds], [(1.0, 5.0), (2.0, 10.0), *[(1.0, 3.0)] * kinds]
        ) + WhiteKernel(1e-4, (1e-5, 1e-3))
        optimizer = "fmin_l_bfgs_b" if len(rows) >= _FITTED_FROM else None
        process = GaussianProcessRegressor(kernel, optimizer=optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound is meant to stop there
            process.fit(self._features[rows], ratios)
        shifts, deviations = process.predict(self._features, return_std=True)
        found = {
            rollout: Belief(math.exp(self._logs[k] + shifts[k]), float(deviations[k]))
            for k, rollout in enumerate(self._rollouts)
        }
        return found | {rollout: Belief(error, 0.0) for rollout, error in measured.items()}
