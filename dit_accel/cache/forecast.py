"""How kept values are carried to a reuse step: weights of the last compute steps' values, a polynomial in model time.

The unit is the log signal-to-noise ratio (`dit_accel.step_tracker.model_times`) and not the step index: grids are
uneven, and it is model time in which a residual moves smoothly. On the demo model it beat both the
step index and sigma itself.
"""

from __future__ import annotations

from collections.abc import Sequence

ORDERS = {"hold": 0, "taylor1": 1, "taylor2": 2}


def forecast_weights(times: Sequence[float], time: float) -> list[float]:
    """Weights w with value(time) ≈ Σ w[k] · value(times[k]): the polynomial through all given points.

    One point holds its value, two give the first-order Taylor step with the slope between them, three the second-order
    one with divided differences, which stay right on an uneven grid.

    Args:
        times: model times of the kept values, newest last. A time that an earlier point has too is left out
            (second-order schedulers visit a timestep twice), with weight 0 for the older point.
        time: model time of the reuse step.
    """
    used = {t: k for k, t in enumerate(times)}  # the newest point of each time
    weights = [0.0] * len(times)
    for t, k in used.items():
        weight = 1.0
        for other in used:
            if other != t:
                weight *= (time - other) / (t - other)
        weights[k] = weight
    return weights


def taylor_weights(step: int, kept_steps: Sequence[int], times: Sequence[float]) -> Sequence[float]:
    """`forecast_weights` of kept steps; one alone is held, whatever its time."""
    if len(kept_steps) == 1:
        return (1.0,)
    return forecast_weights([times[kept] for kept in kept_steps], times[step])
