"""The work directory of `profile`: which ones are refused, and what damage, a full disk and NaN end in."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from dit_accel.errors import JobError
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.profiling.workdir import WorkDir

from .conftest import ARGUMENTS, PROMPTS, ROLLOUT, Run


def test_another_job_in_the_same_workdir_is_refused(
    pipe: Any, again: Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes, words in (
        ({"max_segment": 2}, "these differ: max_segment"),
        ({"seeds": [1]}, "these differ: batches"),
        ({"guidance_scale": 3.0, "num_inference_steps": 7}, "these differ: inputs, num_inference_steps"),
    ):
        with pytest.raises(JobError, match=words):
            again(**changes)
    monkeypatch.setattr(pipe, "scheduler", type(pipe.scheduler).from_config(pipe.scheduler.config, solver_order=1))
    with pytest.raises(JobError, match="these differ: scheduler"):
        again()


def test_unusable_workdirs(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/dev/null/x"):
        with pytest.raises(JobError, match=r"The work directory .* cannot be written"):
            profile(pipe, PROMPTS, workdir=path, **ARGUMENTS)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_in_use_is_refused(again: Run, copy: Path, finished: tuple[Path, ErrorGraph]) -> None:
    with (
        WorkDir(copy, finished[1].provenance).locked(),
        pytest.raises(JobError, match="Another process is working in"),
    ):
        again()
    assert again() == finished[1]
    (copy / "lock").unlink()
    (copy / "lock").mkdir()
    with pytest.raises(JobError, match="cannot be locked"):
        again()


WHOLE = {"schema": "dit_accel.rollout", "version": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (ROLLOUT, "", "not valid JSON"),
        (ROLLOUT, '{"schema": "dit_accel.rollout", "ver', "not valid JSON"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5]}), "errors must be 2 numbers of at least 0"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": []}), "errors must be 2 numbers"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5, -1]}), "errors must be 2 numbers"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5, True]}), "errors must be 2 numbers"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5, float("nan")]}), "NaN is not a JSON number"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": 3}), "errors must be 2 numbers"),
        ("job.json", "{", "not valid JSON"),
        ("job.json", "[]", r"is damaged: it holds \[\]"),
    ],
)
def test_damaged_results_are_named(again: Run, copy: Path, name: str, text: str, words: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(JobError, match=words) as caught:
        again()
    assert str(copy / name) in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign"])
def test_a_damaged_trajectory_is_named(again: Run, copy: Path, damage: str) -> None:
    path = copy / "trajectory-000.safetensors"
    whole = path.read_bytes()
    if damage == "foreign":
        shutil.copy(copy / "trajectory-001.safetensors", path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"")
    (copy / ROLLOUT).unlink()
    with pytest.raises(JobError, match=r"trajectory-000\.safetensors .*Delete it, and run the job again"):
        again()


def test_a_full_disk_is_a_job_error_and_can_be_resumed(
    again: Run, copy: Path, finished: tuple[Path, ErrorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / ROLLOUT).unlink()
    (copy / "trajectory-001.safetensors").unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for target in ("dit_accel.profiling.rollout.save_file", "dit_accel.documents.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(JobError, match=r"cannot be written.*No space left on device"):
                again()
    assert again() == finished[1]


def test_a_run_that_diverges_is_told_and_not_stored(
    again: Run, copy: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / ROLLOUT).unlink()
    step = type(pipe.scheduler).step
    monkeypatch.setattr(type(pipe.scheduler), "step", lambda *args, **named: (step(*args, **named)[0] * math.nan,))
    with pytest.raises(JobError, match=r"A run that computes the steps \[0, 1, 3, 4, 5\] ends in NaN"):
        again()
    (copy / "trajectory-000.safetensors").unlink()
    with pytest.raises(JobError, match=r"The full run of .* ends in NaN"):
        again()
    assert not (copy / ROLLOUT).exists() and not (copy / "trajectory-000.safetensors").exists()
