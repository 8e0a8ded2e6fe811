"""kill -9 of a profiling process at 20 random moments, then a resume: nothing lost, nothing measured twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dit_accel.profiling.error_graph import ErrorGraph

NUM_KILLS = 20
# Imports once, then forks a process for every line "workdir out slow" that it reads, and answers with its pid and, to
# the next line, with its exit code. Until then nothing else can get the pid.
_SCRIPT = """
import os, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
from dit_accel.pipelines import wan
from dit_accel.profiling.job import profile
from dit_accel.profiling.workdir import WorkDir

pipe = wan.tiny()
inputs = {key: value for key, value in wan.tiny_inputs().items() if key != "prompt"}

def work(workdir, out, slow):
    # Slowed down and logged from outside the product, so that kills fall everywhere and repeats would be seen.
    write = WorkDir.write
    def logged(self, task, errors):
        end = time.process_time() + float(slow)
        while time.process_time() < end:
            pass
        write(self, task, errors)
        with open(out.with_suffix(".log"), "a") as log:
            log.write(f"{task}\\n")
    WorkDir.write = logged
    out.with_suffix(".ready").write_text("")
    graph = profile(
        pipe, ["a red seven moving left on navy", "a blue one spinning on gray"],
        num_inference_steps=8, max_segment=4, seeds=(0, 1), batch_size=2, workdir=workdir, progress=False, **inputs,
    )
    graph.save(out)

for line in sys.stdin:
    workdir, out, slow = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if pid == 0:
        try:
            work(Path(workdir), Path(out), slow)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(pid, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Workers:
    """Processes that profile, one at a time."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        assert server.stdin and server.stdout
        self._lines, self._answers = server.stdin, server.stdout

    def start(self, workdir: Path, out: Path, slow: float) -> int:
        """Its pid."""
        print(workdir, out, slow, sep="\t", file=self._lines, flush=True)
        return int(self._answers.readline())

    def wait(self) -> int:
        """Its exit code; minus the signal if one has ended it."""
        print(file=self._lines, flush=True)
        return int(self._answers.readline())


@pytest.fixture
def workers() -> Iterator[Workers]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _SCRIPT], **pipes) as server:
        yield Workers(server)
        server.stdin.close()


def _snapshot(workdir: Path) -> dict[str, tuple[bytes, int]]:
    """Every finished result by name, with its bytes and the time it was written."""
    found = [*(workdir / "rollouts").glob("*-*-*.json"), *workdir.glob("trajectory-*.safetensors")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def wait_for_work(process: psutil.Process, seconds: float) -> None:
    """Until it has worked so long: on a busy machine nothing may come of the time on the clock."""

    def worked() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    end = worked() + seconds
    while worked() < end and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing(workers: Workers, tmp_path: Path) -> None:
    workers.start(tmp_path / "whole", tmp_path / "whole.json", 0.0)
    assert workers.wait() == 0
    moments = random.Random(0)
    workdir, out = tmp_path / "killed", tmp_path / "killed.json"
    done: dict[str, tuple[bytes, int]] = {}
    for _ in range(NUM_KILLS):
        ready = out.with_suffix(".ready")
        ready.unlink(missing_ok=True)
        pid = workers.start(workdir, out, 0.15)
        while not ready.exists():
            time.sleep(0.01)
        wait_for_work(psutil.Process(pid), moments.uniform(0.0, 0.4))
        os.kill(pid, signal.SIGKILL)
        assert workers.wait() == -signal.SIGKILL, "the job must still be running when it is killed; slow it down"
        now = _snapshot(workdir) if workdir.exists() else {}
        assert done.items() <= now.items(), "a finished result was lost, changed or written again"
        done = now
    workers.start(workdir, out, 0.0)
    assert workers.wait() == 0
    assert done.items() <= _snapshot(workdir).items()
    assert ErrorGraph.load(out) == ErrorGraph.load(tmp_path / "whole.json")
    log = out.with_suffix(".log").read_text().splitlines()
    assert len(log) == len(set(log)), "a rollout was run twice"
    assert done, "every kill came before anything was done"
