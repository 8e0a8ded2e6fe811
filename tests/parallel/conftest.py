"""What one, two and four processes found. They are started once, however many workers the tests have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from .processes import Results, run_ranks

Make = Callable[[Path], list[Results]]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], list[Results]]:
    """Gives what ``make`` found in an empty folder, from the worker that came first."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Make) -> list[Results]:
        folder = root / f"ranks-{name}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "found.pt").exists():
                folder.mkdir(exist_ok=True)
                torch.save(make(folder), folder / "found.pt")
        found: list[Results] = torch.load(folder / "found.pt", weights_only=True)
        return found

    return get


@pytest.fixture(scope="session")
def alone(shared: Callable[[str, Make], list[Results]]) -> Results:
    """What a single process found, job by job."""
    jobs = {name: [name] for name in ("plain", "runs", "presets")}
    jobs |= {name: [name, "before"] for name in ("cases", "uneven", "ring", "sharded")}
    jobs["replicas"] = ["replicas", "1"]
    return shared("1", lambda folder: run_ranks(folder, 1, jobs))[0]


@pytest.fixture(scope="session")
def two(shared: Callable[[str, Make], list[Results]], alone: Results) -> list[Results]:
    """What each of two processes found."""
    thresholds = json.dumps([float(value) for value in alone["runs"]])
    jobs = {name: [name] for name in ("plain", "presets", "wrapped")}
    jobs |= {"runs": ["runs", thresholds], "replicas": ["replicas", "1"], "uneven": ["uneven", "after"]}
    for order in ("before", "after"):
        jobs |= {f"{name} {order}": [name, order] for name in ("cases", "ring", "sharded")}
    return shared("2", lambda folder: run_ranks(folder, 2, jobs))


@pytest.fixture(scope="session")
def four(shared: Callable[[str, Make], list[Results]]) -> list[Results]:
    """What each of four processes found."""
    cases = ("sparse and partial steps", "dbcache", "svg2", "svg2, when it drifts")
    jobs = {"cases": ["cases", "after", *cases], "replicas": ["replicas", "2"], "ring": ["ring", "before", "2"]}
    return shared("4", lambda folder: run_ranks(folder, 4, jobs))
