"""`resample`: the error graph of another step count or shift, from the residual model of the one that was profiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..documents import is_number, quoted
from ..errors import GraphError
from ..schedule import MAX_STEPS
from .residual_model import FORECASTS, UNLIMITED, ResidualModel, noise_levels

if TYPE_CHECKING:
    from .error_graph import ErrorGraph

_EDGE = 1e-3  # as in `step_tracker.model_times`: at pure noise, and at none, the logarithm has no end


@UNLIMITED
def resample(graph: ErrorGraph, num_steps: int | None, shift: float | None) -> ErrorGraph:
    """See `ErrorGraph.resample`."""
    from .error_graph import ErrorGraph

    if graph.model is None or not graph.model.gains:
        raise GraphError(
            "This graph holds no residual model with gains, so it fits its own steps only. Profile again with "
            "mode='lazy' or 'estimate'."
        )
    wanted = graph.num_steps if num_steps is None else num_steps
    if type(wanted) is not int or not 3 <= wanted <= MAX_STEPS:
        raise GraphError(f"num_steps must be an integer from 3 to {MAX_STEPS}, got {quoted(num_steps)}.")
    old_shift = _shift_of(graph)
    if shift is not None and old_shift is None:
        raise GraphError("The provenance names no scheduler.shift, so another shift cannot be told from it.")
    if shift is not None and (not is_number(shift) or shift <= 0):
        raise GraphError(f"shift must be a finite number above 0, got {quoted(shift)}.")
    new_shift = old_shift if shift is None else shift
    model = graph.model.resample(_times(graph.model, wanted, old_shift or 1.0, new_shift or 1.0))
    forecasts = [name for name in FORECASTS if name == "hold" or name in graph.forecasts.values()]
    longest = max((stop - start for start, stop in graph.edges), default=1)
    best = {}
    for start in range(wanted - 2):
        for stop in range(start + 2, min(start + longest, wanted - 1) + 1):
            best[start, stop] = min((model.estimate(start, stop, name), name) for name in forecasts)
    origin = {"num_steps": graph.num_steps, "shift": old_shift}
    return ErrorGraph(
        wanted,
        {edge: error for edge, (error, _) in best.items()},
        rollout_steps=graph.rollout_steps,
        provenance={**_with_shift(graph, new_shift), "num_inference_steps": wanted, "resampled_from": origin},
        forecasts={edge: name for edge, (_, name) in best.items()},
        estimated=best,
        model=model,
    )


def _shift_of(graph: ErrorGraph) -> float | None:
    scheduler = graph.provenance.get("scheduler")
    shift = scheduler.get("shift") if isinstance(scheduler, dict) else None
    return float(shift) if isinstance(shift, (int, float)) and is_number(shift) and shift > 0 else None


def _with_shift(graph: ErrorGraph, shift: float | None) -> dict[str, object]:
    """The provenance, with the shift that the schedule is for."""
    scheduler = graph.provenance.get("scheduler")
    if not isinstance(scheduler, dict):
        return graph.provenance
    return {**graph.provenance, "scheduler": {**scheduler, "shift": shift}}


def _times(model: ResidualModel, num_steps: int, old_shift: float, new_shift: float) -> list[float]:
    """Model times of ``num_steps`` steps that are spaced as the old ones are, under another shift.

    A noise level s of a grid with shift a is s = a·u / (1 + (a − 1)·u) of an unshifted level u. The unshifted levels
    are read off at the new parts of the way: to zero, or to their smallest where the grid ends there, as Euler's does,
    which shifts its smallest level twice.
    """
    levels = noise_levels(model.times)
    levels = np.where(levels >= 1 - 1.001 * _EDGE, 1.0, levels)  # pure noise, clipped by `model_times`
    unshifted, old_steps = _unshifted(levels, old_shift), model.num_steps
    if unshifted[-1] * old_steps < 0.5:
        last = _shifted(_unshifted(unshifted[-1], old_shift), new_shift)
        parts = (unshifted - unshifted[-1]) / (1 - unshifted[-1])
        read = np.interp(np.linspace(0, 1, num_steps), np.linspace(0, 1, old_steps), parts) * (1 - last) + last
    else:
        ends = np.arange(old_steps + 1) / old_steps
        read = np.interp(np.arange(num_steps) / num_steps, ends, np.append(unshifted, 0.0))
    found = np.clip(_shifted(read, new_shift), _EDGE, 1 - _EDGE)
    return [float(time) for time in np.log(1 - found) - np.log(found)]


def _shifted(levels: Any, shift: float) -> Any:
    return shift * levels / (1 + (shift - 1) * levels)


def _unshifted(levels: Any, shift: float) -> Any:
    return levels / (shift - (shift - 1) * levels)
