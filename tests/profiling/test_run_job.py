"""A whole job on a saved tiny pipeline: what it writes, and what is refused before hours of work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dit_accel import SVG2Config
from dit_accel.errors import ConfigError, GraphError, JobError
from dit_accel.pipelines import wan
from dit_accel.profiling import job_file, measurement
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job_file import JobFile, run_job
from dit_accel.profiling.planner import plan
from dit_accel.profiling.request import ProfileJob
from dit_accel.schedule import CacheSchedule

from ..conftest import tiny_inputs


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, saved as diffusers saves it."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny-wan"
    wan.tiny().save_pretrained(folder)
    return folder


@pytest.fixture
def job(source: Path) -> JobFile:
    profile = {"prompts": ["a red seven"], "num_inference_steps": 5, "max_segment": 3}
    return JobFile(
        name="tiny",
        source=str(source),
        dtype="float32",
        device="cpu",
        profile=profile,
        inputs=tiny_inputs(),
        objective="lexicographic-minimax",
        power=4.0,
        presets={"fast": 3, "slow": 4},
    )


def test_run_job_writes_graph_and_presets(job: JobFile, tmp_path: Path) -> None:
    graph, schedules = run_job(job, tmp_path / "work", tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "5-steps.graph.json",
        "fast.json",
        "slow.json",
    ]
    assert ErrorGraph.load(tmp_path / "out" / "5-steps.graph.json") == graph
    assert set(graph.edges) == {(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)}
    assert graph.provenance["model"]["id"] == "tiny-wan"
    for name, budget in job.presets.items():
        loaded = CacheSchedule.load(tmp_path / "out" / f"{name}.json")
        assert loaded == schedules[tmp_path / "out" / f"{name}.json"]
        assert loaded.name == f"tiny/{name}" and loaded.budget == budget
        assert loaded.compute_steps == graph.plan_all()[budget].compute_steps


def fixed_times(monkeypatch: pytest.MonkeyPatch) -> list[ProfileJob]:
    """The same step times on every machine; returns the jobs that asked for them."""
    asked: list[ProfileJob] = []
    times = {"full": 8.0, "reuse": 1.0, "partial": 3.0, "sparse": 5.0}

    def measured(pipe: Any, job: ProfileJob) -> dict[str, float]:
        asked.append(job)
        kinds = {"full", "reuse"} | ({"partial"} if job.partial_blocks else set())
        kinds |= set() if job.sparse_config is None else {"sparse"}
        return {kind: times[kind] for kind in times if kind in kinds}

    monkeypatch.setattr(measurement, "measure_step_times", measured)
    return asked


def test_run_job_plans_speedups(job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse and partial steps too, where they are profiled."""
    timed = fixed_times(monkeypatch)
    sparse = SVG2Config(num_q_centroids=2, num_k_centroids=2, min_tokens=0, dense_layers=0.0)
    profile = {**job.profile, "partial_blocks": [1, 0]}
    asked = dataclasses.replace(job, profile=profile, speedups={"quick": 1.6}, sparse=sparse)
    work = tmp_path / "work"
    graph, schedules = run_job(asked, work, tmp_path / "out", progress=False)
    assert graph.actions is not None and set(graph.actions.milliseconds) == {"full", "reuse", "partial", "sparse"}
    assert set(graph.actions.partial_errors) == set(graph.edges)
    assert set(graph.actions.sparse_errors) == set(range(4))
    loaded = CacheSchedule.load(tmp_path / "out" / "quick.json")
    assert loaded == schedules[tmp_path / "out" / "quick.json"]
    assert loaded.name == "tiny/quick" and 40 / 25 <= loaded.provenance["speedup"] <= 40 / 15
    expected = plan(graph, speedup=1.6)
    assert loaded.compute_steps == expected.compute_steps
    assert (loaded.partial, loaded.sparse) == (expected.partial, expected.sparse)
    again, repeated = run_job(asked, work, tmp_path / "again", progress=False)
    assert again == graph and list(repeated.values()) == list(schedules.values())
    assert len(timed) == 1  # times are measured once a work directory


@pytest.mark.parametrize("mode", ["lazy", "estimate"])
def test_speedups_of_a_graph_that_is_not_exact(
    job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    fixed_times(monkeypatch)
    asked = dataclasses.replace(job, profile={**job.profile, "mode": mode}, speedups={"quick": 1.3})
    graph, schedules = run_job(asked, tmp_path / "work", tmp_path / "out", progress=False)
    assert graph.actions is not None and set(graph.actions.milliseconds) == {"full", "reuse"}
    assert {path.stem for path in schedules} == {"fast", "slow", "quick"}


def test_run_job_polishes_its_presets(job: JobFile, tmp_path: Path) -> None:
    plain_graph, plain = run_job(job, tmp_path / "work", tmp_path / "plain", progress=False)
    graph, polished = run_job(job, tmp_path / "work", tmp_path / "out", rollouts=2, progress=False)
    assert graph == plain_graph
    for name in job.presets:
        found, given = polished[tmp_path / "out" / f"{name}.json"], plain[tmp_path / "plain" / f"{name}.json"]
        note = found.provenance["polish"]
        assert found.budget == given.budget and "polish" not in given.provenance
        assert 0 <= note["rollouts"] <= 2 and note["error_after"] <= note["error_before"]
        assert CacheSchedule.load(tmp_path / "out" / f"{name}.json") == found and found.name == f"tiny/{name}"
    tight = dataclasses.replace(job, polish={"fast": 2})
    _, only = run_job(tight, tmp_path / "work", tmp_path / "tight", progress=False)
    names = {name: only[tmp_path / "tight" / f"{name}.json"] for name in job.presets}
    assert names == {"fast": polished[tmp_path / "out" / "fast.json"], "slow": plain[tmp_path / "plain" / "slow.json"]}


def test_a_graph_without_model_can_be_planned(job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a pipeline whose residuals change their shape on the way."""
    monkeypatch.setattr(measurement, "read_model", lambda paths: None)
    graph, schedules = run_job(job, tmp_path / "work", tmp_path / "out", progress=False)
    assert graph.model is None and {path.stem for path in schedules} == set(job.presets)


@pytest.mark.parametrize("rollouts", [-1, 1.5])
def test_bad_rollouts_are_found_before_hours_of_work(
    job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rollouts: Any
) -> None:
    monkeypatch.setattr(job_file, "profile", lambda *_, **__: pytest.fail("it was profiled"))
    with pytest.raises((JobError, ConfigError), match="rollouts must be"):
        run_job(job, tmp_path / "work", tmp_path / "out", rollouts=rollouts, progress=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"presets": {"fast": 3, "ultra": 2}}, "No path of 2 full steps .*Feasible budgets: 3 to 5"),
        ({"presets": {"fast": 6}}, "No path of 6 full steps"),
        ({"objective": "fastest"}, "objective='fastest' is not allowed"),
        ({"objective": "sum-power", "power": float("nan")}, "power must be a finite number"),
    ],
)
def test_a_plan_that_cannot_be_is_found_before_hours_of_work(
    job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(job_file, "profile", lambda *_, **__: pytest.fail("it was profiled"))
    with pytest.raises(GraphError, match=words):
        run_job(dataclasses.replace(job, **changes), tmp_path / "work", tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_unless_everything_is_solved(
    job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_file, "_check_plan", lambda job: None)  # as with a graph too large to rehearse
    bad = dataclasses.replace(job, presets={"fast": 3, "ultra": 2})
    with pytest.raises(GraphError, match="No path of 2 full steps"):
        run_job(bad, tmp_path / "work", tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []
    run_job(job, tmp_path / "work", tmp_path / "out", progress=False)  # the rollouts are kept, the plan is fixed
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_run_job_refuses(job: JobFile, tmp_path: Path) -> None:
    for workers in (0, -1):
        with pytest.raises(JobError, match=f"workers must be at least 1, got {workers}"):
            run_job(job, tmp_path / "work", tmp_path / "out", workers)
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"The output directory .* cannot be written"):
        run_job(job, tmp_path / "work", tmp_path / "file")
    with pytest.raises(ConfigError, match="Did you mean 'height'"):
        run_job(dataclasses.replace(job, inputs={"hight": 16}), tmp_path / "work", tmp_path / "out", progress=False)
