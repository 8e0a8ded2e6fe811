"""Every shipped profile: valid, complete, planned from its own graph, reported on prompts it was not profiled on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dit_accel import CacheSchedule, ErrorGraph, QualityReport, plan
from dit_accel.demo import load_demo_pipeline
from dit_accel.profiling.job import weights_sha256
from dit_accel.profiling.job_file import JobFile
from dit_accel.profiling.planner import forecast_weights
from dit_accel.schedule import shipped_schedules
from dit_accel.showcase import HELD_OUT_PROMPTS

ROOT = Path("offline_profiles")
REQUIRED = {
    "name",
    "model",
    "scheduler",
    "num_inference_steps",
    "inputs",
    "batches",
    "budget",
    "objective",
    "versions",
}


# Those without an error graph of ours beside them were taken over as they were published.
MEASURED = [name for name in shipped_schedules() if list((ROOT / name).parent.glob("*.graph.json"))]
LEMICA = [name for name in MEASURED if name.startswith("digits-wan/lemica-")]
REQUIRED_OF_PUBLISHED = {"name", "model", "source", "published_in", "num_inference_steps", "budget"}


@pytest.mark.parametrize("name", shipped_schedules())
def test_schedule_is_valid_and_says_where_it_comes_from(name: str) -> None:
    schedule = CacheSchedule.resolve(name)
    assert schedule == CacheSchedule.load(ROOT / f"{name}.json")
    assert set(schedule.provenance) >= (REQUIRED if name in MEASURED else REQUIRED_OF_PUBLISHED)
    assert ("not measured here" in schedule.provenance.get("source", "")) == (name not in MEASURED)
    assert schedule.provenance["num_inference_steps"] == schedule.num_steps
    assert schedule.provenance["name"] == name and schedule.provenance["budget"] == schedule.budget


@pytest.mark.parametrize("job_path", sorted(ROOT.glob("jobs/*.toml")), ids=lambda path: path.stem)
def test_schedules_are_the_plans_of_the_committed_graph(job_path: Path) -> None:
    job = JobFile.load(job_path)
    folder = ROOT / job.name
    graph = ErrorGraph.load(folder / f"{job.profile['num_inference_steps']}-steps.graph.json")
    lengths = [stop - start for start, stop in graph.edges]
    assert max(lengths) == job.profile["max_segment"] and min(lengths) == 2
    assert [p for batch in graph.provenance["batches"] for p in batch["prompts"]] == job.profile["prompts"]
    how = {"objective": job.objective, "power": job.power}
    planned = {preset: plan(graph, budget, **how) for preset, budget in job.presets.items()}
    planned |= {preset: plan(graph, speedup=speedup, **how) for preset, speedup in job.speedups.items()}
    for preset, schedule in planned.items():
        shipped = CacheSchedule.load(folder / f"{preset}.json")
        if preset in job.polish:
            assert shipped.budget == schedule.budget
            assert 0 < shipped.provenance["polish"]["rollouts"] <= job.polish[preset]
            is_sloping = set(shipped.provenance["edge_forecasts"].values()) == {"slope"}
            assert shipped.forecasts == forecast_weights(graph, shipped.compute_steps, "slope" if is_sloping else None)
        else:
            assert shipped == replace(schedule, provenance=shipped.provenance)


def test_presets_have_their_share_of_the_steps() -> None:
    shares = {"slow": 0.50, "medium": 0.40, "fast": 0.34, "ultra": 0.28, "turbo": 0.2}
    for preset, share in shares.items():
        schedule = CacheSchedule.resolve(f"digits-wan/lemica-{preset}")
        assert schedule.budget == round(share * schedule.num_steps)


def test_report_covers_every_preset_on_held_out_prompts() -> None:
    report = QualityReport.load(ROOT / "digits-wan" / "held-out.report.json")
    rows = {row.name: row for row in report.rows}
    assert set(report.provenance["prompts"]) == set(HELD_OUT_PROMPTS)
    for name in LEMICA:
        schedule = CacheSchedule.resolve(name)
        row, uniform = rows[name.split("/")[1]], rows[f"uniform-{schedule.budget}"]
        assert row.computed_steps == uniform.computed_steps == schedule.budget
        assert row.num_videos >= 16
        assert row.metrics["psnr"][0] > uniform.metrics["psnr"][0]


def test_profile_is_of_the_weights_that_ship() -> None:
    digest = weights_sha256(load_demo_pipeline())
    for name in MEASURED:
        assert CacheSchedule.resolve(name).provenance["model"]["weights_sha256"] == digest
