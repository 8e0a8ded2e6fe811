"""`ErrorGraph.resample`: the grid of times against the real schedulers, and the estimates of the new graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from dit_accel import LeMiCaConfig, enable_acceleration
from dit_accel.errors import GraphError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.profiling.planner import plan
from dit_accel.profiling.residual_model import FORECASTS, ResidualModel
from dit_accel.step_tracker import model_times

from ..conftest import run_tiny, tiny_inputs, tiny_pipeline

NUM_STEPS = 8


def unipc(shift: float) -> Any:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def euler(shift: float) -> Any:
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def times_of(scheduler: Any, num_steps: int) -> tuple[float, ...]:
    scheduler.set_timesteps(num_steps)
    return tuple(model_times(scheduler, scheduler.timesteps))


def levels(times: Any) -> np.ndarray:
    return 1 / (1 + np.exp(np.array(times)))


def graph_of(scheduler: Any, num_steps: int, shift: float | None, *, max_segment: int = 3, **more: Any) -> ErrorGraph:
    """A graph with a smooth model on the grid of a scheduler: residuals are vectors that turn with model time."""
    times = times_of(scheduler, num_steps)
    gram = np.exp(-(np.subtract.outer(times, times) ** 2) / 8)
    sizes = ResidualModel(times, gram).step_sizes
    model = ResidualModel(times, gram, tuple(float(size) for size in 2 * sizes))
    edges = {
        (i, j): model.estimate(i, j, "hold")
        for i in range(num_steps - 2)
        for j in range(i + 2, min(i + max_segment, num_steps - 1) + 1)
    }
    provenance = {"scheduler": {"class": "mine", "shift": shift}, "prompts": ["x"], "num_inference_steps": num_steps}
    return ErrorGraph(num_steps, edges, **{"provenance": provenance, "model": model, "rollout_steps": 11, **more})


# The grid


@pytest.mark.parametrize("scheduler", [unipc, euler])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((50, 3.0), (50, 3.0)),
        ((50, 3.0), (25, 3.0)),
        ((50, 3.0), (30, 5.0)),
        ((50, 3.0), (40, 1.0)),
        ((20, 5.0), (50, 3.0)),
        ((50, 1.0), (40, 1.0)),
        ((50, 5.0), (80, 8.0)),
        ((8, 3.0), (12, 3.0)),
    ],
)
def test_the_grid_is_that_of_the_scheduler(
    scheduler: Any, before: tuple[int, float], after: tuple[int, float]
) -> None:
    graph = graph_of(scheduler(before[1]), *before)
    num_steps, shift = after
    found = graph.resample(num_steps, shift=shift).model
    assert found is not None and found.num_steps == num_steps
    real = times_of(scheduler(shift), num_steps)
    assert np.abs(levels(found.times) - levels(real)).max() < 4e-3
    inner = slice(1, None)  # the first level is 1 but for a trifle, of which the logarithm makes much
    assert np.abs(np.array(found.times) - np.array(real))[inner].max() < 0.2


@pytest.mark.parametrize(("before", "after"), [(5.0, 3.0), (3.0, 8.0), (1.0, 3.0)])
def test_pure_noise_stays_pure_noise(before: float, after: float) -> None:
    found = graph_of(unipc(before), 20, before).resample(shift=after).model
    assert found is not None and found.times[0] == pytest.approx(times_of(unipc(after), 20)[0], abs=0.05)


# The graph


@pytest.mark.parametrize("forecast", list(FORECASTS))
def test_the_same_steps_give_the_same_estimates(forecast: str) -> None:
    graph = graph_of(unipc(3.0), 12, 3.0)
    again = graph.resample(12, shift=3.0)
    for found in (again, graph.resample()):
        assert found == again
    assert graph.model is not None and again.model is not None
    for i, j in graph.edges:
        estimate = graph.model.estimate(i, j, forecast)
        assert again.model.estimate(i, j, forecast) == pytest.approx(estimate, rel=1e-4, abs=1e-6)


def test_what_it_holds() -> None:
    names = list(FORECASTS)
    plain = graph_of(unipc(3.0), 12, 3.0)
    forecasts = {edge: names[k % len(names)] for k, edge in enumerate(sorted(plain.edges))}
    graph = graph_of(unipc(3.0), 12, 3.0, forecasts=forecasts)
    found = graph.resample(9, shift=5.0)
    wanted = {(i, j) for i in range(7) for j in range(i + 2, min(i + 3, 8) + 1)}  # edges as long as before
    assert found.num_steps == 9 and set(found.edges) == wanted == found.estimated
    assert found.model is not None and found.actions is None and found.rollout_steps == 11
    for (i, j), error in found.edges.items():
        by_name = {name: found.model.estimate(i, j, name) for name in names}
        assert error == min(by_name.values()) == by_name[found.forecasts.get((i, j), "hold")]
    assert found.provenance["scheduler"] == {"class": "mine", "shift": 5.0}
    assert found.provenance["num_inference_steps"] == 9 and found.provenance["prompts"] == ["x"]
    assert found.provenance["resampled_from"] == {"num_steps": 12, "shift": 3.0}
    assert graph.provenance["scheduler"]["shift"] == 3.0 and graph.num_steps == 12


def test_hold_alone_stays_hold_alone() -> None:
    assert graph_of(unipc(3.0), 12, 3.0).resample(20).forecasts == {}


def test_fewer_steps_cost_more() -> None:
    """The same stretch of time is a larger error if there are fewer steps in it to be right."""
    graph = graph_of(unipc(3.0), 48, 3.0)
    errors = [max(graph.resample(n).edges.values()) for n in (12, 24, 48)]
    assert errors == sorted(errors, reverse=True)


def test_it_can_be_saved(tmp_path: Any) -> None:
    found = graph_of(unipc(3.0), 12, 3.0).resample(10, shift=4)
    found.save(tmp_path / "graph.json")
    assert ErrorGraph.load(tmp_path / "graph.json") == found
    assert found.resample(12).num_steps == 12


def test_without_a_shift_in_the_provenance() -> None:
    graph = graph_of(unipc(1.0), 12, None)
    assert graph.resample(9).num_steps == 9
    assert graph.resample(9).provenance["scheduler"]["shift"] is None
    with pytest.raises(GraphError, match=r"names no scheduler\.shift"):
        graph.resample(9, shift=3.0)


@pytest.mark.parametrize("num_steps", [2, 0, -1, 10_001, 9.0, True, "9"])
def test_bad_numbers_of_steps(num_steps: Any) -> None:
    with pytest.raises(GraphError, match="num_steps must be an integer from 3 to 10000"):
        graph_of(unipc(3.0), 12, 3.0).resample(num_steps)


@pytest.mark.parametrize("shift", [0, -1.0, math.nan, math.inf, True, "3"])
def test_bad_shifts(shift: Any) -> None:
    with pytest.raises(GraphError, match="shift must be a finite number above 0"):
        graph_of(unipc(3.0), 12, 3.0).resample(shift=shift)


def test_graphs_without_gains() -> None:
    graph = graph_of(unipc(3.0), 12, 3.0)
    assert graph.model is not None
    for model in (None, ResidualModel(graph.model.times, graph.model.gram)):
        with pytest.raises(GraphError, match="holds no residual model with gains"):
            ErrorGraph(12, graph.edges, model=model).resample(9)


@pytest.mark.parametrize("num_steps", [5, 11])
def test_its_plans_run(num_steps: int) -> None:
    pipe = tiny_pipeline()
    graph = profile(
        pipe,
        ["a red seven spinning on navy"],
        num_inference_steps=NUM_STEPS,
        mode="estimate",
        max_segment=4,
        progress=False,
        **tiny_inputs(),
    )
    found = graph.resample(num_steps)
    assert found.model is not None
    assert levels(found.model.times) == pytest.approx(levels(times_of(pipe.scheduler, num_steps)), abs=2e-3)
    full = run_tiny(pipe, num_inference_steps=num_steps)
    schedule = plan(found, 4)
    with enable_acceleration(pipe, LeMiCaConfig(schedule)) as acceleration:
        reused = run_tiny(pipe, num_inference_steps=num_steps)
        computed = acceleration.stats.computed_steps["transformer"]["cond"]
    assert computed == list(schedule.compute_steps) and len(computed) == 4
    assert reused.isfinite().all() and 0 < (reused - full).abs().mean() < full.abs().mean()
