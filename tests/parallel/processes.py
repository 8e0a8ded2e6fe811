"""Starts the processes of a test as one process group, and ends them whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

JOBS = Path(__file__).with_name("jobs.py")
Results = dict[str, dict[str, Any]]


def run_ranks(folder: Path, ranks: int, jobs: dict[str, list[str]], timeout: float = 500) -> list[Results]:
    """What each of ``ranks`` processes found, label by label. They have one thread each, and meet on 127.0.0.1.

    If one fails all are ended, and its error is that of the test; so they are after ``timeout`` seconds.

    Args:
        folder: an empty one.
        ranks: how many processes.
        jobs: label -> name of a function of ``jobs.py`` and its arguments; they run in this order.
        timeout: seconds for everything.
    """
    common = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RANKS": str(ranks)}
    log = folder / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, str(JOBS), str(folder), json.dumps(jobs)],
            env={**os.environ, **common},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{ranks} processes have not ended in {timeout} s:\n{log.read_text()[-3000:]}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it, and the ranks that it forked
        process.wait()
    assert code == 0, log.read_text()[-5000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
