"""`profile_shard` and `merge`: shares that cover a job once, the graph of one process, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_accel.configs import SVG2Config
from dit_accel.errors import ConfigError, JobError
from dit_accel.profiling import job_file
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job_file import JobFile, run_shard
from dit_accel.profiling.merging import merge
from dit_accel.profiling.request import checked_job
from dit_accel.profiling.shards import Shard, profile_shard, shards_in

from .conftest import ARGUMENTS, PROMPTS, stamps

JOB = {name: value for name, value in ARGUMENTS.items() if name != "progress"}


@pytest.mark.parametrize("count", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("num_prompts", [1, 3])
def test_shares_cover_the_job_once_and_cost_the_same(count: int, num_prompts: int) -> None:
    job = checked_job(PROMPTS[:num_prompts], num_inference_steps=50, max_segment=8, batch_size=2)
    shares = [Shard(index, count).tasks(job) for index in range(count)]
    tasks = [(batch, rollout) for batch in range(len(job.batches)) for rollout in job.rollouts()]
    assert [task for share in shares for task in share] == tasks
    costs = [sum(map(job.cost_steps, share)) for share in shares]
    assert max(costs) - min(costs) <= 2 * 50 * 2, "two rollouts of two videos"


def test_parse() -> None:
    assert Shard.parse("3/8") == Shard(3, 8)
    torchrun = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
    assert Shard.parse("auto", torchrun) == Shard(5, 16, 1)
    assert Shard.parse("auto", slurm) == Shard(2, 4, 0)
    assert Shard.parse("auto", {**slurm, **torchrun}) == Shard(5, 16, 1), "torchrun within srun"
    for text, words in (("8/8", "no shard 8 of 8"), ("0/0", "no shard 0 of 0"), ("1", "i/n"), ("-1/8", "i/n")):
        with pytest.raises(ConfigError, match=words):
            Shard.parse(text)
    with pytest.raises(ConfigError, match="needs RANK and WORLD_SIZE"):
        Shard.parse("auto", {"RANK": "1"})


@pytest.fixture(scope="module")
def parts(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The work directories of three shards. Copy one before you change it."""
    folders = [tmp_path_factory.mktemp("shard") for _ in range(3)]
    for index, folder in enumerate(folders):
        profile_shard(pipe, PROMPTS, Shard(index, 3), workdir=folder, progress=False, **JOB)
    return folders


def test_merged_is_the_graph_of_one_process(parts: list[Path], finished: tuple[Path, ErrorGraph]) -> None:
    assert merge(parts[::-1]).to_json() == finished[1].to_json()
    assert [shards_in(part) for part in parts] == [[Shard(index, 3)] for index in range(3)]
    names = [{name for name in stamps(part) if name.startswith("trajectory")} for part in parts]
    assert [len(found) for found in names] == [1, 1, 1], "each records what it needs"


def test_one_workdir_for_all(pipe: Any, tmp_path: Path, finished: tuple[Path, ErrorGraph]) -> None:
    for index in (1, 0):
        profile_shard(pipe, PROMPTS, Shard(index, 2), workdir=tmp_path, progress=False, **JOB)
    assert set(stamps(tmp_path)) == set(stamps(finished[0]))
    assert merge([tmp_path]).to_json() == finished[1].to_json()
    before = stamps(tmp_path)
    profile_shard(pipe, PROMPTS, Shard(1, 2), workdir=tmp_path, progress=False, **JOB)
    assert stamps(tmp_path) == before, "a shard that is done does nothing"


def test_forecasts_need_all_trajectories(pipe: Any, tmp_path: Path) -> None:
    arguments = {**JOB, "forecasts": ["hold", "fitted"], "num_inference_steps": 4}
    for index in range(3):
        profile_shard(pipe, PROMPTS, Shard(index, 3), workdir=tmp_path / str(index), progress=False, **arguments)
    found = merge([tmp_path / str(index) for index in range(3)])
    whole = job_file.profile(pipe, PROMPTS, workdir=tmp_path / "whole", progress=False, **arguments)
    assert found.to_json() == whole.to_json()


def test_missing_shards_are_named(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"missing, of shard 1/3\. Run these"):
        merge([parts[0], parts[2]])
    with pytest.raises(JobError, match=r"missing, of shard 0/3, 2/3\."):
        merge(parts[1:2])
    shutil.copytree(parts[0], tmp_path / "part")
    next((tmp_path / "part").glob("shard-*")).unlink()
    with pytest.raises(JobError, match="do not say of which shard"):
        merge([tmp_path / "part"])
    (tmp_path / "part" / "trajectory-000.safetensors").unlink()
    with pytest.raises(JobError, match="0 rollouts or their full runs are missing"):
        merge([tmp_path / "part", *without_first_trajectory(parts, tmp_path)])


def without_first_trajectory(parts: list[Path], tmp_path: Path) -> list[Path]:
    copies = []
    for index, part in enumerate(parts[1:]):
        copies.append(Path(shutil.copytree(part, tmp_path / f"copy-{index}")))
        (copies[-1] / "trajectory-000.safetensors").unlink(missing_ok=True)
    return copies


def test_what_disagrees_is_refused(parts: list[Path], tmp_path: Path, pipe: Any) -> None:
    for part in parts[:2]:
        shutil.copytree(part, tmp_path / part.name)
    first, second = (tmp_path / part.name for part in parts[:2])
    name = next((first / "rollouts").iterdir()).name
    (second / "rollouts" / name).write_text((first / "rollouts" / name).read_text().replace("[", "[1"))
    with pytest.raises(JobError, match="disagree about Rollout"):
        merge([first, second])
    (second / "rollouts" / name).unlink()
    with (first / "trajectory-000.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(JobError, match="The full run of batch 0 was recorded differently"):
        merge([first, second])
    profile_shard(pipe, PROMPTS, Shard(0, 64), workdir=tmp_path / "other", progress=False, **{**JOB, "seeds": [1]})
    with pytest.raises(JobError, match="hold different jobs; these differ: batches"):
        merge([parts[0], tmp_path / "other"])


def test_merge_refuses(tmp_path: Path, pipe: Any) -> None:
    with pytest.raises(JobError, match="nothing to merge"):
        merge([])
    with pytest.raises(JobError, match="There is no job file"):
        merge([tmp_path / "absent"])
    assert not (tmp_path / "absent").exists()
    job_file.profile(pipe, PROMPTS[:1], workdir=tmp_path, progress=False, **{**JOB, "mode": "estimate"})
    with pytest.raises(JobError, match="no shard of an exact profile"):
        merge([tmp_path])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "lazy"}, "mode='lazy' decides from each result"),
        ({"mode": "estimate"}, "mode='estimate' decides"),
        ({"step_times": True}, "need the finished graph"),
        ({"partial_blocks": (1, 0)}, "need the finished graph"),
        ({"sparse": SVG2Config()}, "need the finished graph"),
    ],
)
def test_jobs_without_shares(pipe: Any, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        profile_shard(pipe, PROMPTS, Shard(0, 2), workdir=tmp_path / "work", progress=False, **{**JOB, **changes})
    assert not (tmp_path / "work").exists()


def test_a_whole_job_and_shards_keep_each_other_out(pipe: Any, parts: list[Path], tmp_path: Path) -> None:
    from dit_accel.profiling.workdir import WorkDir, read_description

    shutil.copytree(parts[0], tmp_path / "work")
    work = WorkDir(tmp_path / "work", read_description(tmp_path / "work"))
    with work.locked(), pytest.raises(JobError, match="Another process"):
        profile_shard(pipe, PROMPTS, Shard(1, 3), workdir=work.path, progress=False, **JOB)
    with work.locked(shared=True):
        with pytest.raises(JobError, match="Another process"):
            job_file.profile(pipe, PROMPTS, workdir=work.path, progress=False, **JOB)
        with work.locked(Shard(0, 3).lock_name), pytest.raises(JobError, match="Another process"):
            profile_shard(pipe, PROMPTS, Shard(0, 3), workdir=work.path, progress=False, **JOB)


@pytest.mark.parametrize(("visible", "device"), [(8, "cuda:5"), (1, "cuda:0"), (0, "cuda:0")])
def test_a_launcher_gives_each_process_its_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: int, device: str
) -> None:
    for name, value in {"RANK": "13", "WORLD_SIZE": "16", "LOCAL_RANK": "5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    loaded = []
    monkeypatch.setattr(job_file, "load_pipeline", lambda *where, **_: loaded.append(where))
    monkeypatch.setattr(job_file, "profile_shard", lambda *_, shard, **__: [shard])
    job = JobFile("x", "somewhere", "bfloat16", "cuda", {}, {}, "lexicographic-minimax", 4.0)
    assert run_shard(job, tmp_path, "auto") == (Shard(13, 16, 5), [Shard(13, 16, 5)])
    assert loaded == [("somewhere", "bfloat16", device)]
