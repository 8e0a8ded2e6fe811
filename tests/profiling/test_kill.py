"""kill -9 of a profiling process at 20 random moments, then a resume: nothing lost, nothing measured twice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dit_accel.profiling.error_graph import ErrorGraph

NUM_KILLS = 20
_SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dit_accel import profile
from dit_accel.profiling import job as job_module
from dit_accel.pipelines import wan

workdir, out, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
inputs = {key: value for key, value in wan.tiny_inputs().items() if key != "prompt"}

# Slowed down and logged from outside the product, so that kills fall everywhere and repeats would be seen.
import time
from dit_accel.profiling.workdir import WorkDir
write = WorkDir.write
def logged(self, task, errors):
    time.sleep(slow)
    write(self, task, errors)
    with open(out.with_suffix(".log"), "a") as log:
        log.write(f"{task}\\n")
WorkDir.write = logged
Path(out.with_suffix(".ready")).write_text("")
graph = profile(
    wan.tiny(), ["a red seven moving left on navy", "a blue one spinning on gray"],
    num_inference_steps=8, max_segment=4, seeds=(0, 1), batch_size=2, workdir=workdir, progress=False,
    **inputs,
)
graph.save(out)
"""


def _start(workdir: Path, out: Path, slow: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(workdir), str(out), str(slow)], stderr=subprocess.DEVNULL
    )


def _snapshot(workdir: Path) -> dict[str, tuple[bytes, int]]:
    """Every finished result by name, with its bytes and the time it was written."""
    found = [*(workdir / "rollouts").glob("*-*-*.json"), *workdir.glob("trajectory-*.safetensors")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    assert _start(tmp_path / "whole", tmp_path / "whole.json", 0.0).wait() == 0
    moments = random.Random(0)
    workdir, out = tmp_path / "killed", tmp_path / "killed.json"
    done: dict[str, tuple[bytes, int]] = {}
    kills = 0
    while kills < NUM_KILLS:
        ready = out.with_suffix(".ready")
        ready.unlink(missing_ok=True)
        process = _start(workdir, out, 0.05)
        while not ready.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.45))
        assert process.poll() is None, "the job must still be running when it is killed; slow it down"
        process.kill()
        process.wait()
        kills += 1
        now = _snapshot(workdir) if workdir.exists() else {}
        assert done.items() <= now.items(), "a finished result was lost, changed or written again"
        done = now
    assert _start(workdir, out, 0.0).wait() == 0
    assert done.items() <= _snapshot(workdir).items()
    assert ErrorGraph.load(out) == ErrorGraph.load(tmp_path / "whole.json")
    log = out.with_suffix(".log").read_text().splitlines()
    assert len(log) == len(set(log)), "a rollout was run twice"
