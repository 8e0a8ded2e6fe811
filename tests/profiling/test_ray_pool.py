"""`ray_pool` on a real cluster of this machine: the same graph as here, workers that are killed, tasks that kill."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dit_accel.demo import DEMO_INPUTS, load_demo_pipeline
from dit_accel.errors import JobError
from dit_accel.loading import load_pipeline
from dit_accel.pipelines import wan
from dit_accel.profiling import measurement
from dit_accel.profiling import ray_pool as module
from dit_accel.profiling.distributed import WorkersLost
from dit_accel.profiling.job import profile
from dit_accel.profiling.ray_pool import ray_pool
from dit_accel.profiling.workdir import WorkDir

from .conftest import ARGUMENTS, PROMPTS

ray = pytest.importorskip("ray")
NUM_KILLS = 5
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else whatever else runs on the machine goes first
        ray.init("local", num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers; the number of threads may change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[module.RayExecutor]:
    with ray_pool(wan.tiny, num_workers=2) as executor:
        yield executor


@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_the_graph_is_that_of_the_local_run(pipe: Any, pool: module.RayExecutor, tmp_path: Path, mode: str) -> None:
    arguments = {**ARGUMENTS, "mode": mode, "step_times": False}
    alone = profile(pipe, PROMPTS, workdir=tmp_path / "alone", **arguments)
    spread = profile(pipe, PROMPTS, workdir=tmp_path / "ray", executor=pool, **arguments)
    assert spread.to_json() == alone.to_json()
    assert files(tmp_path / "ray") == files(tmp_path / "alone")


def files(workdir: Path) -> dict[str, bytes]:
    """What a work directory keeps."""
    return {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.rglob("*.*")}


def test_the_embedded_model(tmp_path: Path) -> None:
    arguments = {"num_inference_steps": 4, "progress": False, **DEMO_INPUTS}
    prompts = ["a red seven moving left on navy", "a blue one spinning on gray"]
    alone = profile(load_demo_pipeline(), prompts, workdir=tmp_path / "alone", **arguments)
    with ray_pool(load_demo_pipeline, num_workers=1) as executor:
        spread = profile(load_demo_pipeline(), prompts, workdir=tmp_path / "ray", executor=executor, **arguments)
    assert spread.to_json() == alone.to_json()


def test_step_times_come_from_a_worker(
    pipe: Any, pool: module.RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "measure_step_times", lambda *_: pytest.fail("measured here"))
    graph = profile(pipe, PROMPTS[:1], workdir=tmp_path, executor=pool, **{**ARGUMENTS, "step_times": True})
    assert graph.actions is not None and set(graph.actions.milliseconds) == {"full", "reuse"}


def test_killed_workers_are_replaced_and_nothing_is_lost_or_done_twice(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {**ARGUMENTS, "num_inference_steps": 10, "max_segment": 5}
    alone = profile(pipe, PROMPTS, workdir=tmp_path / "alone", **arguments)
    num_rollouts = len(list((tmp_path / "alone" / "rollouts").iterdir()))
    chance, written, killed = random.Random(0), [], []
    moments = set(chance.sample(range(num_rollouts - 10), NUM_KILLS))
    write = WorkDir.write

    def logged(self: WorkDir, task: Any, errors: list[float]) -> None:
        write(self, task, errors)
        if len(written) in moments:
            time.sleep(chance.uniform(0.0, 0.1))  # the workers go on meanwhile
            killed.append(kill_one(chance))
        written.append(task)

    with monkeypatch.context() as patch, ray_pool(wan.tiny, num_workers=2) as executor:
        patch.setattr(WorkDir, "write", logged)
        spread = profile(pipe, PROMPTS, workdir=tmp_path / "ray", executor=executor, **arguments)
    assert spread.to_json() == alone.to_json()
    assert len(killed) == len(set(killed)) == NUM_KILLS
    assert len(written) == len(set(written)) == num_rollouts


def kill_one(chance: random.Random) -> int:
    """Kill one of the workers of this process, and return its pid."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        pids = [process.pid for process in actors() if process.pid not in dead]
        if pids:
            pid = chance.choice(sorted(pids))
            os.kill(pid, signal.SIGKILL)
            dead.add(pid)
            return pid
        time.sleep(0.05)
    raise AssertionError("no worker was started in five minutes")


dead: set[int] = set()


def actors() -> Iterator[psutil.Process]:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::_Actor" in " ".join(process.cmdline()):
                yield process


def test_a_task_that_ends_its_workers_is_named(
    pipe: Any, pool: module.RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkersLost, match="4 workers ended, one after the other"):
        pool.submit(signal.raise_signal, signal.SIGKILL).result(timeout=300)
    assert pool.submit(max, 3, 4).result(timeout=300) == 4, "others are done all the same"


def test_what_a_task_raises_is_raised_here(pool: module.RayExecutor) -> None:
    with pytest.raises(JobError, match="diffusers cannot load the pipeline 'absent'"):
        pool.submit(load_pipeline, "absent").result(timeout=300)


def test_a_pipeline_that_cannot_be_loaded_is_an_error(pipe: Any, tmp_path: Path) -> None:
    load = functools.partial(load_pipeline, "absent")
    with (
        ray_pool(load, num_workers=2) as pool,
        pytest.raises(JobError, match="A worker could not load the pipeline: diffusers"),
    ):
        profile(pipe, PROMPTS, workdir=tmp_path, executor=pool, **ARGUMENTS)


def test_workers_that_end_while_they_load_are_an_error() -> None:
    with (
        ray_pool(functools.partial(signal.raise_signal, signal.SIGKILL), num_workers=1) as pool,
        pytest.raises(JobError, match="4 workers ended, one after the other, while they loaded the pipeline"),
    ):
        pool.submit(os.getpid).result(timeout=300)


def test_an_interruption_ends_the_workers_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), ray_pool(wan.tiny, num_workers=1) as pool:
        futures = [pool.submit(time.sleep, 100) for _ in range(2)]
        while not futures[0].running():
            time.sleep(0.05)
        begin = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 60
    for future in futures:
        with pytest.raises(RuntimeError, match="shut down"):
            future.result(timeout=1)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(max, 1, 2)


def test_a_cluster_without_room_is_refused() -> None:
    with (
        pytest.raises(JobError, match="The Ray cluster has no GPU for a worker"),
        ray_pool(wan.tiny, gpus_per_worker=1),
    ):
        pass
    with pytest.raises(JobError, match="workers must be at least 1, got 0"), ray_pool(wan.tiny, num_workers=0):
        pass
