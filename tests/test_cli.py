"""``dit-accel``: exit codes, one line an error, JSON that parses. Nothing here needs the demo model's weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dit_accel import cli
from dit_accel.cli import main
from dit_accel.errors import GraphError
from dit_accel.pipelines import wan
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.registry import all_specs
from dit_accel.schedule import CacheSchedule

from .conftest import tiny_inputs
from .shell import Shell, save_graph

JOB = """
[job]
name = "tiny"
[pipeline]
source = "{source}"
[profile]
prompts = ["a red seven"]
num_inference_steps = 5
max_segment = 3
[inputs]
{inputs}
[plan]
presets = {{ fast = 3 }}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pipeline") / "tiny-wan"
    wan.tiny().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return save_graph(tmp_path)


@pytest.fixture
def job(tmp_path: Path, source: str) -> str:
    path = tmp_path / "job.toml"
    inputs = "\n".join(f"{key} = {value}" for key, value in tiny_inputs().items())
    path.write_text(JOB.format(source=source, inputs=inputs))
    return str(path)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


# plan


def test_plan(shell: Shell, graph: str, tmp_path: Path) -> None:
    assert shell.ok("plan", graph, "--budget", "3") == "0 2 4\n"
    out = tmp_path / "s.json"
    found = json.loads(shell.ok("plan", graph, "--budget", "4", "--out", str(out), "--json"))
    assert found["num_steps"] == 5 and tuple(found["compute_steps"]) == CacheSchedule.load(out).compute_steps
    # errors 2 and 1 against 0 and 3: a small power favours the path with the zero
    assert shell.ok("plan", graph, "--budget", "3", "--objective", "sum-power", "--power", "0.01") == "0 1 4\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "2"], "GraphError: No path of 2 full steps"),
        (["--budget", "3", "--objective", "best"], "objective='best' is not allowed"),
        (["--budget", "3", "--objective", "sum-power", "--power", "nan"], "power must be a finite number above 0"),
        (["--budget", "3", "--out", "no/such/folder/s.json"], "The schedule cannot be written to"),
        (["--budget", "3", "--out", "."], "The schedule cannot be written to"),
    ],
)
def test_plan_errors(shell: Shell, graph: str, arguments: list[str], words: str) -> None:
    assert words in shell.fails("plan", graph, *arguments)


def test_plan_of_what_is_no_graph(shell: Shell, tmp_path: Path) -> None:
    assert "There is no error graph file" in shell.fails("plan", str(tmp_path / "absent.json"), "--budget", "3")
    assert "is a directory" in shell.fails("plan", str(tmp_path), "--budget", "3")
    (tmp_path / "s.json").write_text(CacheSchedule(5, (0, 2)).to_json())
    assert "not a dit_accel.error_graph file" in shell.fails("plan", str(tmp_path / "s.json"), "--budget", "3")


def test_debug_shows_the_traceback(graph: str) -> None:
    with pytest.raises(GraphError):
        main(["plan", graph, "--budget", "2", "--debug"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["plann"],
        ["plan"],
        ["plan", "g.json"],
        ["plan", "g", "--budget", "x"],
        ["plan", "g", "--milliseconds", "x"],
        ["plan", "g", "--budget", "3", "--speedup", "2"],
        ["plan", "g", "--milliseconds", "3", "--speedup", "2"],
        ["plan", "g", "--steps", "9"],
        ["plan", "g", "--budget", "3", "--steps", "9.5"],
        ["profile", "job.toml", "--polish", "x"],
        ["demo", "--prompts", "0"],
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1 and "--help" in err


def test_as_a_program(graph: str) -> None:
    """The only test that starts a process: exit codes and streams are the shell's."""
    program = [sys.executable, "-m", "dit_accel.cli", "plan", graph, "--budget"]
    good = subprocess.run([*program, "3"], capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, "0 2 4\n", "")
    bad = subprocess.run([*program, "2"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("GraphError: ") and bad.stderr.count("\n") == 1
    debug = subprocess.run([*program, "2", "--debug"], capture_output=True, text=True)
    assert debug.returncode == 1 and "Traceback" in debug.stderr


# doctor and presets


def test_doctor(shell: Shell) -> None:
    found = json.loads(shell.ok("doctor", "--json"))
    assert found["packages"]["torch"] and found["device"]
    assert found["families"]["wan"][:2] == ["WanPipeline", "WanImageToVideoPipeline"]
    assert sum(map(len, found["families"].values())) == sum(len(spec.pipelines) for spec in all_specs())
    assert found["sparse_backends"]["torch"] == "ok"
    assert "runs on cuda" in found["sparse_backends"]["flashinfer"] or found["device"] != "cpu"
    text = shell.ok("doctor")
    assert "family wan: WanPipeline, WanImageToVideoPipeline" in text
    assert all(f"sparse attention backend {name}: {s}" in text for name, s in found["sparse_backends"].items())


def test_presets(shell: Shell, source: str, tmp_path: Path) -> None:
    names = ["dbcache-fast", "dbcache-medium", "dbcache-slow", "svg2", "svg2-turbo"]
    assert json.loads(shell.ok("presets", source, "--json"))["presets"] == names
    assert shell.ok("presets", source).split() == names
    assert "diffusers cannot load the pipeline" in shell.fails("presets", str(tmp_path))


# profile


def test_profile(shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = json.loads(shell.ok("profile", job, "--out", str(tmp_path / "out"), "--json"))
    assert found["schedules"] == [str(tmp_path / "out" / "fast.json")]
    assert CacheSchedule.load(tmp_path / "out" / "fast.json").budget == 3
    assert (tmp_path / "cache" / "dit_accel" / "profiles" / "tiny" / "job.json").exists()
    assert "fast.json: 3 of 5 steps" in shell_text(shell, job)
    assert (tmp_path / "cache" / "dit_accel" / "profiles" / "tiny" / "profile" / "fast.json").exists()


def test_profile_with_polish(shell: Shell, job: str, tmp_path: Path) -> None:
    options = ("--workdir", str(tmp_path / "work"), "--out", str(tmp_path / "out"))
    shell.ok("profile", job, *options, "--json")
    plain = CacheSchedule.load(tmp_path / "out" / "fast.json")
    found = json.loads(shell.ok("profile", job, *options, "--polish", "2", "--json"))
    polished = CacheSchedule.load(found["schedules"][0])
    assert polished.budget == plain.budget == 3 and "polish" not in plain.provenance
    assert polished.provenance["polish"]["rollouts"] <= 2
    assert polished.provenance["polish"]["error_after"] <= polished.provenance["polish"]["error_before"]


def test_profile_with_a_speedup(shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_accel.profiling import measurement

    monkeypatch.setattr(measurement, "measure_step_times", lambda *_: {"full": 8.0, "reuse": 1.0})
    text = Path(job).read_text().replace("presets = { fast = 3 }", "speedups = { quick = 1.5 }")
    Path(job).write_text(text)
    found = json.loads(shell.ok("profile", job, "--workdir", str(tmp_path / "work"), "--json"))
    (path,) = found["schedules"]
    assert Path(path).name == "quick.json" and CacheSchedule.load(path).provenance["speedup"] == 40 / 26


def test_polish_that_cannot_be_is_found_before_hours_of_work(
    shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dit_accel.profiling import job_file

    monkeypatch.setattr(job_file, "profile", lambda *_, **__: pytest.fail("it was profiled"))
    line = shell.fails("profile", job, "--workdir", str(tmp_path / "work"), "--polish", "-1", "--json")
    assert "rollouts must be" in line


def shell_text(shell: Shell, job: str) -> str:
    """The finished job once more: its text, beside a progress bar on the other stream."""
    return shell.ok("profile", job)


def test_profile_errors(shell: Shell, job: str, tmp_path: Path) -> None:
    work = str(tmp_path / "work")
    assert "There is no job file" in shell.fails("profile", str(tmp_path / "absent.toml"))
    assert "workers must be at least 1, got 0" in shell.fails("profile", job, "--workdir", work, "--workers", "0")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in shell.fails("profile", job, "--workdir", str(tmp_path / "file"), "--out", work)
    assert "cannot be written" in shell.fails("profile", job, "--workdir", work, "--out", str(tmp_path / "file"))


def test_an_empty_cache_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cli._cache_dir() == Path.home() / ".cache" / "dit_accel"


def test_what_diffusers_refuses_is_one_line_too(shell: Shell, job: str, tmp_path: Path) -> None:
    text = Path(job).read_text().replace("height = 16", "height = 17")
    Path(job).write_text(text)
    line = shell.fails("profile", job, "--workdir", str(tmp_path / "work"), "--json")
    assert line.startswith("ValueError: ") and "height" in line


def test_an_interrupt_says_how_to_go_on(
    graph: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ErrorGraph, "load", interrupt)
    assert main(["plan", graph, "--budget", "3"]) == 130
    assert "continues from its workdir" in capsys.readouterr().err


# report


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--metrics": "fid"}, "no metric 'fid'"),
        ({"--inputs": "{height: 16}"}, "--inputs is not valid JSON"),
        ({"--inputs": "[16]"}, "--inputs must be a JSON object, got [16]"),
        ({"--inputs": '{"seeds": [1]}'}, "--inputs holds arguments of the pipeline only, got seeds"),
        ({"--inputs": '{"prompt": "x"}'}, "got prompt. Leave them out"),
        ({"--prompts": "absent.txt"}, "There is no prompts file at absent.txt"),
        ({"--prompts": "."}, "is a directory"),
        ({"--presets": "lemica-fast"}, "UnknownPresetError"),
        ({"--pipeline": "."}, "diffusers cannot load"),
        ({"--out": "no/such/report.json"}, "Create it first"),
    ],
)
def test_report_errors(
    shell: Shell, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red seven\n\n")
    options: dict[str, Any] = {
        "--pipeline": source,
        "--presets": "x",
        "--prompts": "prompts.txt",
        "--metrics": "psnr",
        **changes,
    }
    assert words in shell.fails("report", *(text for option in options.items() for text in option))


def test_report(shell: Shell, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_accel import LeMiCaConfig, api

    monkeypatch.setattr(api, "_presets", lambda *_: {"half": lambda: (LeMiCaConfig(CacheSchedule(4, (0, 2))),)})
    (tmp_path / "prompts.txt").write_text("a red seven\n\n  a blue one  \n")
    options = ["--pipeline", source, "--presets", "half", "--prompts", str(tmp_path / "prompts.txt"), "--steps", "4"]
    inputs = ["--inputs", json.dumps(tiny_inputs()), "--metrics", "psnr", "--out", str(tmp_path / "report.json")]
    (row,) = json.loads(shell.ok("report", *options, *inputs, "--json"))["rows"]
    assert (row["name"], row["computed_steps"], row["num_videos"]) == ("half", 2, 2)
    assert json.loads((tmp_path / "report.json").read_text())["provenance"]["prompts"] == ["a red seven", "a blue one"]
