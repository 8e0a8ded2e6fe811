"""Job files: what is refused, by name, and what the keys mean. For whole jobs see test_run_job.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dit_accel import DEMO_INPUTS, SVG2Config
from dit_accel.errors import JobError
from dit_accel.profiling import job_file
from dit_accel.profiling.job_file import JobFile
from dit_accel.profiling.request import checked_job

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
    assert job.inputs == DEMO_INPUTS and job.presets == {} and job.profile["num_inference_steps"] == 5
    assert job.speedups == {} and job.sparse is None
    assert not {"step_times", "budgets", "partial_blocks"} & set(job.profile_arguments())
    assert checked_job(**job.profile_arguments()).has_times is False


def test_inputs_of_the_demo_are_known_and_can_be_changed(tmp_path: Path) -> None:
    job = JobFile.load(write(tmp_path / "job.toml", MINIMAL + "[inputs]\nheight = 24\n"))
    assert job.inputs == {**DEMO_INPUTS, "height": 24}
    other = MINIMAL.replace('"demo"', '"some/model"')
    assert JobFile.load(write(tmp_path / "other.toml", other)).inputs == {}


FULL = (
    MINIMAL
    + """
mode = "lazy"
forecasts = ["hold", "fitted"]
budgets = [3, 4]
safety = 1
partial_blocks = [1, 0]
[sparse]
top_p = 0.5
num_q_centroids = 2
min_tokens = 0
backend = "torch"
compensate = false
[plan]
objective = "sum-power"
power = 3
presets = { slow = 4 }
speedups = { fast = 1.5, faster = 2 }
polish = { slow = 12 }
"""
)


def test_every_key_arrives(tmp_path: Path) -> None:
    job = JobFile.load(write(tmp_path / "job.toml", FULL))
    assert (job.presets, job.speedups) == ({"slow": 4}, {"fast": 1.5, "faster": 2})
    assert job.polish == {"slow": 12}
    sparse = SVG2Config(top_p=0.5, num_q_centroids=2, min_tokens=0, backend="torch", compensate=False)
    assert job.sparse == sparse
    asked = checked_job(**job.profile_arguments())
    assert (asked.mode, asked.forecasts, asked.budgets, asked.safety) == ("lazy", ("hold", "fitted"), (3, 4), 1.0)
    assert (asked.objective, asked.power, asked.partial_blocks) == ("sum-power", 3.0, (1, 0))
    assert asked.has_times and asked.sparse_config == {
        "top_p": 0.5,
        "num_q_centroids": 2,
        "min_tokens": 0,
        "backend": "torch",
        "compensate": False,
    }


def test_what_follows_from_the_plans(tmp_path: Path) -> None:
    def arguments(more: str) -> dict[str, Any]:
        return JobFile.load(write(tmp_path / "job.toml", MINIMAL + more)).profile_arguments()

    lazy, plans = 'mode = "lazy"\n', "[plan]\npresets = { a = 4, b = 3, c = 4 }\n"
    assert arguments(lazy + plans)["budgets"] == [3, 4]
    assert arguments(lazy + "budgets = [5]\n" + plans)["budgets"] == [5]  # said is said
    assert "budgets" not in arguments(plans) and "budgets" not in arguments(lazy)
    assert arguments("[plan]\nspeedups = { a = 1.5 }")["step_times"] is True
    assert arguments("step_times = true")["step_times"] is True
    assert "step_times" not in arguments(plans)


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
        (MINIMAL + '[plan.speedups]\n"../../evil" = 3', "'../../evil' cannot name files"),
        (MINIMAL + "[plan]\nspeedups = 2.0", "plan.speedups must be a dict, got 2.0"),
        (
            MINIMAL + '[plan]\nspeedups = { fast = "2" }',
            "plan.speedups maps a preset name, none of plan.presets, to a",
        ),
        (MINIMAL + "[plan]\nspeedups = { fast = true }", "plan.speedups maps"),
        (MINIMAL + "[plan]\npresets = { a = 4 }\npolish = { b = 3 }", r"plan.polish maps a preset of plan.presets"),
        (MINIMAL + "[plan]\npresets = { a = 4 }\npolish = { a = -1 }", "plan.polish maps .*, got {'a': -1}"),
        (MINIMAL + "[plan]\npresets = { a = 4 }\npolish = { a = 1.5 }", "plan.polish maps .*, got {'a': 1.5}"),
        (MINIMAL + "[plan]\nspeedups = { fast = nan }", "plan.speedups maps"),
        (MINIMAL + "[plan]\nspeedups = { fast = inf }", "plan.speedups maps"),
        (MINIMAL + "[plan]\nspeedups = { fast = 0 }", "plan.speedups maps"),
        (MINIMAL + "[plan]\nspeedups = { fast = -1.5 }", "plan.speedups maps"),
        (
            MINIMAL + "[plan]\npresets = { a = 3 }\nspeedups = { a = 2.0 }",
            "plan.speedups maps .* none of plan.presets",
        ),
        (MINIMAL + "step_times = 1", "profile.step_times must be a bool, got 1"),
        (MINIMAL + "partial_blocks = 1", "profile.partial_blocks must be a list, got 1"),
        (MINIMAL + "budgets = 3", "profile.budgets must be a list, got 3"),
        (MINIMAL + 'forecasts = "hold"', "profile.forecasts must be a list, got 'hold'"),
        (MINIMAL + 'safety = "2"', "profile.safety must be a float, got '2'"),
        (MINIMAL + "[sparse]\ntop_q = 0.5", "unknown key sparse.top_q.* Did you mean 'top_p'?"),
        (MINIMAL + "[sparse]\ndense_steps = 0.5", "unknown key sparse.dense_steps"),
        (MINIMAL + "[sparse]\ntop_p = 1.5", "top_p must be a finite number in"),
        (MINIMAL + '[sparse]\nbackend = "best"', "backend='best' is not allowed"),
        (MINIMAL + "step_times = false\n[plan]\nspeedups = { fast = 2.0 }", "step_times"),
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
