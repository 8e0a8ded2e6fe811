"""`profile` in all its modes on the tiny pipeline: what it costs, what it finds, and that it can be interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dit_accel import LeMiCaConfig, enable_acceleration
from dit_accel.errors import JobError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.profiling.planner import plan_all
from dit_accel.profiling.residual_model import FORECASTS
from dit_accel.profiling.rollout import BatchRunner

from ..conftest import tiny_inputs
from .conftest import PROMPTS, stamps

NUM_STEPS, MAX_SEGMENT = 6, 3
EDGES = {(i, j) for i in range(NUM_STEPS) for j in range(i + 2, min(i + MAX_SEGMENT, NUM_STEPS - 1) + 1)}
ARGUMENTS: dict[str, Any] = {
    "num_inference_steps": NUM_STEPS,
    "max_segment": MAX_SEGMENT,
    "batch_size": 2,
    "progress": False,
    **tiny_inputs(),
}
MODES: dict[str, dict[str, Any]] = {
    "exact": {"mode": "exact", "forecasts": ["hold", "fitted"], "max_segment": 2},
    "lazy": {"mode": "lazy", "budgets": [3, 4]},
    "estimate": {"mode": "estimate"},
}
every_mode = pytest.mark.parametrize("mode", MODES)


def run_profile(pipe: Any, workdir: Path, mode: str, **changes: Any) -> ErrorGraph:
    return profile(pipe, PROMPTS, workdir=workdir, **{**ARGUMENTS, **MODES[mode], **changes})


@pytest.fixture(scope="module")
def whole(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ErrorGraph, float]]:
    """For every mode the work directory of an uninterrupted job, its graph, and the full steps that really ran."""
    found = {}
    for mode in MODES:
        videos: list[int] = []
        hook = pipe.transformer.blocks[0].attn1.to_q.register_forward_hook(
            lambda _, args, output, videos=videos: videos.append(len(output))
        )
        workdir = tmp_path_factory.mktemp(mode)
        try:
            graph = run_profile(pipe, workdir, mode)
        finally:
            hook.remove()
        found[mode] = workdir, graph, sum(videos) / 2  # two branches a step
    return found


@every_mode
def test_the_steps_that_a_graph_cost_are_those_that_ran(whole, mode):
    _, graph, full_steps = whole[mode]
    assert graph.rollout_steps == full_steps > len(PROMPTS) * NUM_STEPS


def test_modes_differ_in_what_they_measure(whole):
    exact, lazy, estimate = (whole[mode][1] for mode in MODES)
    assert set(exact.edges) == {(i, j) for i, j in EDGES if j == i + 2} and not exact.estimated
    assert set(lazy.edges) == set(estimate.edges) == EDGES == estimate.estimated
    assert lazy.estimated < EDGES
    assert estimate.rollout_steps < lazy.rollout_steps
    for graph, names in ((exact, ("hold", "fitted")), (lazy, FORECASTS), (estimate, FORECASTS)):
        assert graph.model is not None and len(graph.model.gains) == NUM_STEPS
        assert set(graph.forecasts.values()) <= set(names)
        assert graph.provenance["forecasts"] == list(names)
    assert exact.forecasts  # a fitted forecast beats holding somewhere, also on a model without training
    # What both have measured, with the same forecast, is the same to the last bit.
    common = [e for e in exact.edges if e not in lazy.estimated and exact.forecasts.get(e) == lazy.forecasts.get(e)]
    assert common and all(exact.edges[edge] == lazy.edges[edge] for edge in common)


@every_mode
def test_interrupted_and_resumed_is_the_same(pipe, tmp_path, whole, monkeypatch, mode):
    measure, seen = BatchRunner.measure, []

    def fails_after(self: BatchRunner, *arguments: Any) -> list[float]:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(arguments)
        return measure(self, *arguments)

    calls = 2 * len(list((whole[mode][0] / "rollouts").iterdir())) // 3  # a lazy job has decided at least once by then
    with monkeypatch.context() as patch:
        patch.setattr(BatchRunner, "measure", fails_after)
        with pytest.raises(KeyboardInterrupt):
            run_profile(pipe, tmp_path, mode)
    kept = stamps(tmp_path)
    assert len(list((tmp_path / "rollouts").iterdir())) == calls
    graph = run_profile(pipe, tmp_path, mode)
    assert graph == whole[mode][1] and graph.to_json() == whole[mode][1].to_json()  # to the last bit
    assert kept.items() <= stamps(tmp_path).items()
    assert set(stamps(tmp_path)) == set(stamps(whole[mode][0]))


@every_mode
def test_a_finished_job_measures_nothing(pipe, whole, monkeypatch, mode):
    workdir, graph, _ = whole[mode]
    monkeypatch.setattr(type(pipe.scheduler), "set_timesteps", lambda *_, **__: pytest.fail("the pipeline ran"))
    before = stamps(workdir)
    assert run_profile(pipe, workdir, mode) == graph
    assert stamps(workdir) == before


@every_mode
def test_the_file_keeps_forecasts_estimates_and_model(tmp_path, whole, mode):
    graph = whole[mode][1]
    graph.save(tmp_path / "g.json")
    found = ErrorGraph.load(tmp_path / "g.json")
    assert found == graph
    assert (found.edges, found.forecasts, found.estimated) == (graph.edges, graph.forecasts, graph.estimated)
    assert found.model.to_json() == graph.model.to_json()
    assert plan_all(found) == plan_all(graph)


def test_another_mode_in_the_same_workdir_is_refused(pipe, whole):
    workdir = whole["lazy"][0]
    for changes, words in (
        ({"mode": "estimate"}, "these differ: mode, search"),
        ({"forecasts": ["hold"]}, "these differ: forecasts"),
        ({"budgets": [4]}, "these differ: search"),
        ({"safety": 1.0}, "these differ: search"),
        ({"objective": "sum-power"}, "these differ: search"),
    ):
        with pytest.raises(JobError, match=words):
            run_profile(pipe, workdir, **{"mode": "lazy", **changes})
    assert run_profile(pipe, workdir, "lazy", power=9.0) == whole["lazy"][1]  # minimax has no power


@pytest.mark.parametrize("budget", [3, 4])
def test_a_plan_with_forecasts_runs_and_says_so(pipe, whole, budget):
    schedule = plan_all(whole["lazy"][1])[budget]
    others = set(range(NUM_STEPS)) - set(schedule.compute_steps)
    assert set(schedule.forecasts) <= others
    inputs = {**tiny_inputs(), "num_inference_steps": NUM_STEPS, "output_type": "latent"}
    with enable_acceleration(pipe, LeMiCaConfig(schedule)) as acceleration:
        pipe(prompt=PROMPTS[0], **inputs)
    assert acceleration.stats.reused_steps["transformer"]["cond"] == sorted(others)
