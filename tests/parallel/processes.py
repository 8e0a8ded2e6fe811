"""Starts the processes of a test as one process group, and ends them whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

JOBS = Path(__file__).with_name("jobs.py")
Results = dict[str, dict[str, Any]]


def run_ranks(folder: Path, ranks: int, jobs: dict[str, list[str]], timeout: float = 200) -> list[Results]:
    """What each of ``ranks`` processes found, label by label. They have one thread each, and meet on 127.0.0.1.

    If one fails all are ended, and its error is that of the test; so they are after ``timeout`` seconds.

    Args:
        folder: an empty one.
        ranks: how many processes.
        jobs: label -> name of a function of ``jobs.py`` and its arguments; they run in this order.
        timeout: seconds for everything.
    """
    common = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RANKS": str(ranks)}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            with open(folder / f"{rank}.log", "w") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, str(JOBS), str(folder), json.dumps(jobs)],
                        env={**os.environ, **common, "RANK": str(rank)},
                        stdout=log,
                        stderr=log,
                    )
                )
        _wait(processes, folder, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path, deadline: float) -> None:
    """Return when all have ended well; fail as soon as one has not, or at the deadline."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            log = (folder / f"{rank}.log").read_text()[-3000:]
            assert code in (None, 0), f"Rank {rank} ended with {code}:\n{log}"
        running = [rank for rank, code in enumerate(codes) if code is None]
        if not running:
            return
        assert time.monotonic() < deadline, f"Ranks {running} of {len(codes)} have not ended: a hang."
        time.sleep(0.02)
