"""Job files: what is refused, by name, and a whole job on a saved tiny pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_accel.errors import ConfigError, GraphError, JobError
from dit_accel.pipelines import wan
from dit_accel.profiling import job_file
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job_file import JobFile, load_pipeline, run_job
from dit_accel.schedule import CacheSchedule

from ..conftest import tiny_inputs

SHIPPED = Path(__file__).parents[2] / "offline_profiles" / "jobs"
MINIMAL = """
[job]
name = "tiny"
[pipeline]
source = "demo"
[profile]
prompts = ["a red seven"]
num_inference_steps = 5
"""


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


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_jobs_load(path: Path) -> None:
    job = JobFile.load(path)
    assert job.name == path.stem and job.presets and job.profile["prompts"]
    job_file._check_plan(job)


def test_a_minimal_job_has_defaults(tmp_path: Path) -> None:
    job = JobFile.load(write(tmp_path / "job.toml", MINIMAL))
    assert (job.dtype, job.device, job.objective, job.power) == ("float32", "cpu", "lexicographic-minimax", 4.0)
    assert job.inputs == {} and job.presets == {} and job.profile["num_inference_steps"] == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is not valid TOML"),
        ("x = " + "[" * 100_000, "is not valid TOML"),
        (MINIMAL + "[plans]", r"unknown section \[plans\].* Did you mean 'plan'?"),
        ("job = 5", r"job must be a section \[job\], got 5"),
        (MINIMAL + "max_segmnt = 8", "unknown key profile.max_segmnt.* Did you mean 'max_segment'?"),
        (MINIMAL + "max_segment = true", "profile.max_segment must be a int, got True"),
        (MINIMAL + "max_segment = 8.0", "profile.max_segment must be a int, got 8.0"),
        (MINIMAL + 'mode = ["exact"]', "profile.mode must be a str"),
        (MINIMAL + "seeds = 0", "profile.seeds must be a list, got 0"),
        (MINIMAL + '[plan]\npower = "4"', "plan.power must be a float, got '4'"),
        (MINIMAL + "[plan]\npower = true", "plan.power must be a float, got True"),
        (MINIMAL + "[plan]\npresets = { fast = 3.0 }", "plan.presets maps a preset name to its number of full steps"),
        (MINIMAL + "[plan]\npresets = { fast = true }", "plan.presets maps a preset name"),
        (MINIMAL + '[plan.presets]\n"../../evil" = 3', "'../../evil' cannot name files"),
        (MINIMAL.replace('"tiny"', '"../tiny"'), "'../tiny' cannot name files"),
        (MINIMAL.replace('"tiny"', '"/etc"'), "'/etc' cannot name files"),
        (MINIMAL.replace('"tiny"', '""'), "'' cannot name files"),
        (MINIMAL + "[inputs]\nseeds = [1]", "seeds is no argument of the pipeline"),
        (MINIMAL + '[inputs]\nworkdir = "x"', "workdir is no argument of the pipeline"),
        ('[job]\nname = "tiny"', "missing pipeline.source, profile.prompts, profile.num_inference_steps"),
        ("", "missing job.name"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "job.toml", text)
    with pytest.raises(JobError, match=words) as caught:
        JobFile.load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="There is no job file at"):
        JobFile.load(tmp_path / "absent.toml")
    with pytest.raises(JobError, match="is a directory"):
        JobFile.load(tmp_path)
    large = write(tmp_path / "large.toml", MINIMAL + "#" * job_file.MAX_FILE_BYTES)
    with pytest.raises(JobError, match="a job file has at most 1,048,576"):
        JobFile.load(large)
    (tmp_path / "latin.toml").write_bytes(b"# \xfc")
    with pytest.raises(JobError, match="cannot be read as a job"):
        JobFile.load(tmp_path / "latin.toml")


@pytest.mark.parametrize("dtype", ["float3", "int8", "nn", "", "bool"])
def test_bad_dtypes(dtype: str) -> None:
    with pytest.raises(JobError, match=f"dtype='{dtype}' is not a torch dtype. Use float32"):
        load_pipeline("demo", dtype)


def test_bad_sources_and_devices(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    write(tmp_path / "broken" / "model_index.json", "{")
    write(tmp_path / "file", "")
    for name in ("empty", "broken", "file", "absent/../..", "a\0b"):
        with pytest.raises(JobError, match="diffusers cannot load the pipeline"):
            load_pipeline(str(tmp_path / name))
    for device in ("gpu", "cuda:99"):
        with pytest.raises(JobError, match=f"cannot be moved to device='{device}'"):
            load_pipeline(str(source), device=device)


def test_a_pipeline_comes_in_its_dtype(source: Path) -> None:
    transformer = load_pipeline(str(source), "bfloat16").transformer
    assert transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert transformer.blocks[0].scale_shift_table.dtype == torch.float32  # as the model's class asks for


# Running one


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
    write(tmp_path / "file", "")
    with pytest.raises(JobError, match=r"The output directory .* cannot be written"):
        run_job(job, tmp_path / "work", tmp_path / "file")
    with pytest.raises(ConfigError, match="Did you mean 'height'"):
        run_job(dataclasses.replace(job, inputs={"hight": 16}), tmp_path / "work", tmp_path / "out", progress=False)
