"""`profile` resumed, and spread over workers: the same graph, and nothing measured twice."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_accel.errors import JobError
from dit_accel.pipelines import wan
from dit_accel.profiling import distributed
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.profiling.rollout import BatchRunner

from .conftest import ARGUMENTS, PROMPTS, Run, stamps


def test_a_finished_job_measures_nothing(
    pipe: Any, again: Run, copy: Path, finished: tuple[Path, ErrorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(pipe.scheduler), "set_timesteps", lambda *_, **__: pytest.fail("the pipeline ran"))
    before = stamps(copy)
    assert again() == finished[1]
    assert stamps(copy) == before


def test_only_what_is_missing_is_measured_again(again: Run, copy: Path, finished: tuple[Path, ErrorGraph]) -> None:
    deleted = {"000-000-002.json", "001-003-005.json", "trajectory-001.safetensors"}
    for path in [*copy.iterdir(), *(copy / "rollouts").iterdir()]:
        if path.name in deleted:
            path.unlink()
    (copy / "rollouts" / ".000-000-002.json.x1y2z3").write_text("{")  # as a kill leaves it
    kept = stamps(copy)
    assert again() == finished[1]
    after = stamps(copy)
    assert kept.items() <= after.items() and set(after) == set(kept) | deleted


@pytest.mark.parametrize("calls", [0, 1, 8])
def test_interrupted_and_resumed_is_the_same(
    pipe: Any, tmp_path: Path, finished: tuple[Path, ErrorGraph], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    measure, seen = BatchRunner.measure, []

    def fails_after(self: BatchRunner, *arguments: Any) -> list[float]:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(arguments)
        return measure(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BatchRunner, "measure", fails_after)
        with pytest.raises(KeyboardInterrupt):
            profile(pipe, PROMPTS, workdir=tmp_path, **ARGUMENTS)
    kept = stamps(tmp_path)
    assert len(list((tmp_path / "rollouts").iterdir())) == calls
    assert profile(pipe, PROMPTS, workdir=tmp_path, **ARGUMENTS) == finished[1]
    assert kept.items() <= stamps(tmp_path).items()


@pytest.mark.slow
def test_two_workers_give_the_same_graph(pipe: Any, tmp_path: Path, finished: tuple[Path, ErrorGraph]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers; the number of threads may change the last bits
    try:
        alone = profile(pipe, PROMPTS, workdir=tmp_path / "alone", **ARGUMENTS)
        with distributed.process_pool(wan.tiny, 2) as pool:
            assert profile(pipe, PROMPTS, workdir=tmp_path / "pool", executor=pool, **ARGUMENTS) == alone
    finally:
        torch.set_num_threads(threads)
    assert set(stamps(tmp_path / "pool")) == set(stamps(tmp_path / "alone"))


def _no_pipeline() -> Any:
    raise RuntimeError("no pipeline for this worker")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_that_cannot_start_are_a_job_error(again: Run, copy: Path) -> None:
    (copy / "rollouts" / "000-000-002.json").unlink()
    with (
        distributed.process_pool(_no_pipeline, 1) as pool,
        pytest.raises(JobError, match="A worker process ended"),
    ):
        again(executor=pool)


def test_other_executors_are_refused_and_the_rest_is_cancelled(again: Run, copy: Path) -> None:
    shutil.rmtree(copy / "rollouts")
    with ThreadPoolExecutor(1) as pool, pytest.raises(JobError, match="workers hold no pipeline"):
        again(executor=pool)


def test_a_failure_in_a_worker_cancels_what_has_not_begun(
    again: Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "rollouts")
    begun = []

    def fail(*arguments: Any) -> None:
        begun.append(arguments[-1])
        if len(begun) > 1:
            time.sleep(1)  # until the rest is cancelled, also on a busy machine
        raise JobError("out of memory")

    monkeypatch.setattr(distributed, "run_in_worker", fail)
    with ThreadPoolExecutor(1) as pool, pytest.raises(JobError, match="out of memory"):
        again(executor=pool)
    assert 1 <= len(begun) <= 3  # of 14
