"""``dit-accel profile``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dit_accel.cli.profile import cache_dir
from dit_accel.schedule import CacheSchedule

from ..conftest import tiny_inputs
from .shell import Shell

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


@pytest.fixture
def job(tmp_path: Path, source: str) -> str:
    path = tmp_path / "job.toml"
    inputs = "\n".join(f"{key} = {value}" for key, value in tiny_inputs().items())
    path.write_text(JOB.format(source=source, inputs=inputs))
    return str(path)


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
    assert cache_dir() == Path.home() / ".cache" / "dit_accel"


def test_what_diffusers_refuses_is_one_line_too(shell: Shell, job: str, tmp_path: Path) -> None:
    text = Path(job).read_text().replace("height = 16", "height = 17")
    Path(job).write_text(text)
    line = shell.fails("profile", job, "--workdir", str(tmp_path / "work"), "--json")
    assert line.startswith("ValueError: ") and "height" in line


def test_shards_merge_to_the_graph_of_one_process(shell: Shell, job: str, tmp_path: Path) -> None:
    shell.ok("profile", job, "--workdir", str(tmp_path / "whole"), "--out", str(tmp_path / "out"), "--json")
    parts = [str(tmp_path / f"part-{index}") for index in range(2)]
    assert "shard 1/2, 3 rollouts" in shell.ok("profile", job, "--shard", "1/2", "--workdir", parts[1])
    line = shell.fails("merge", parts[1], "--out", str(tmp_path / "merged"))
    assert "missing, of shard 0/2" in line and not (tmp_path / "merged").exists()
    found = json.loads(shell.ok("profile", job, "--shard", "0/2", "--workdir", parts[0], "--json"))
    assert found == {"shard": "0/2", "rollouts": 2}
    merged = json.loads(shell.ok("merge", *parts, "--out", str(tmp_path / "merged"), "--json"))
    assert Path(merged["graph"]).name == "5-steps.graph.json" and merged["edges"] == 5
    assert Path(merged["graph"]).read_bytes() == (tmp_path / "out" / "5-steps.graph.json").read_bytes()


def test_shard_errors(shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    work = ("--workdir", str(tmp_path / "work"))
    assert "shard must be i/n" in shell.fails("profile", job, "--shard", "three", *work, "--json")
    assert "needs RANK and WORLD_SIZE" in shell.fails("profile", job, "--shard", "auto", *work, "--json")
    with pytest.raises(SystemExit) as caught:
        shell.ok("profile", job, "--shard", "0/2", "--workers", "2")
    assert caught.value.code == 2
    assert "The folder of --out" in shell.fails("merge", str(tmp_path), "--out", str(tmp_path / "absent" / "out"))
    (tmp_path / "file").write_text("")
    assert "There is no job file" in shell.fails("merge", str(tmp_path), "--out", str(tmp_path / "out"))


def test_without_ray_it_says_what_to_install(
    shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = shell.fails("profile", job, "--ray", "local", "--workdir", str(tmp_path / "work"), "--json")
    assert line == 'MissingPackageError: Profiling on a cluster needs ray. pip install "dit-accel[ray]"'


def test_ray_is_given_what_the_job_needs(
    shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU for each worker if the device is one, and none for this process unless it polishes."""
    from dit_accel.profiling import job_file

    asked: list[dict[str, Any]] = []

    @contextmanager
    def pool(load: Any, **options: Any) -> Iterator[None]:
        asked.append({"device": load.args[2], **options})
        yield

    devices: list[str] = []
    load = job_file.load_pipeline
    monkeypatch.setattr(job_file, "ray_pool", pool)
    monkeypatch.setattr(job_file, "load_pipeline", lambda *where, **how: devices.append(where[2]) or load(where[0]))
    Path(job).write_text(Path(job).read_text().replace("[profile]", 'device = "cuda:1"\n[profile]'))
    work = ("--workdir", str(tmp_path / "work"))
    shell.ok("profile", job, "--ray", "10.0.0.1:6379", "--workers", "3", *work, "--json")
    shell.ok("profile", job, "--ray", "auto", "--polish", "1", *work, "--json")
    assert asked[0] == {"device": "cuda", "address": "10.0.0.1:6379", "num_workers": 3, "gpus_per_worker": 1.0}
    assert asked[1] == {"device": "cuda", "address": "auto", "num_workers": None, "gpus_per_worker": 1.0}
    assert devices == ["cpu", "cuda:1"]
