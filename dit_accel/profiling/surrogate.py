"""`Surrogate`: what an edge's error will probably be, and how surely, from estimates and the edges measured so far.

The logarithm of measured over estimated error is nearly the same for edges that lie close together, so a Gaussian
process over (start, stop, forecast) predicts it for the others, with its own standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from .rollout import Rollout

# Of the logarithm of measured over estimated error. Not fitted to what is measured: that is too little to tell, at the
# beginning, how far estimates are off, and a search that is too sure of itself ends too early.
_PRIOR, _NOISE = 0.3, 0.01
_LENGTHS = (1.2, 6.0)  # over how many steps of start and stop it stays alike
_KIND_LENGTH = 3.0  # one forecast tells about another, with the same gains of steps: their correlation is exp(−1 / 3²)
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
        lengths = [*_LENGTHS, *[_KIND_LENGTH] * (len(self._actions) - 1)]
        self._kernel = ConstantKernel(_PRIOR**2) * RBF(lengths) + WhiteKernel(_NOISE**2)

    def _feature(self, rollout: Rollout) -> list[float]:
        kind = [float(rollout.action == action) for action in self._actions[1:]]
        return [float(rollout.start), float(rollout.stop), *kind]

    def beliefs(self, measured: Mapping[Rollout, float]) -> dict[Rollout, Belief]:
        """What is known of every rollout once ``measured`` (some of them -> their errors) is."""
        rows = [self._index[rollout] for rollout in measured]
        ratios = np.log(np.maximum(np.array(list(measured.values())), _SMALLEST)) - self._logs[rows]
        process = GaussianProcessRegressor(self._kernel, optimizer=None).fit(self._features[rows], ratios)
        shifts, deviations = process.predict(self._features, return_std=True)
        found = {
            rollout: Belief(math.exp(self._logs[k] + shifts[k]), float(deviations[k]))
            for k, rollout in enumerate(self._rollouts)
        }
        return found | {rollout: Belief(error, 0.0) for rollout, error in measured.items()}
