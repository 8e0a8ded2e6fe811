"""The simulation of ``benchmarks/profile_scale.py``: its arithmetic on cases that are known by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def scale() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        spec = importlib.util.spec_from_file_location("profile_scale", FOLDER / "profile_scale.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "profile_scale", module)
        spec.loader.exec_module(module)
        yield module
        sys.modules.pop("rows", None)


def machines(scale: Any, **changes: Any) -> Any:
    """One second a step, and nothing else takes time unless it is said."""
    free = {"load_seconds": 0.0, "tape_bytes": 10.0, "link_bytes_per_second": float("inf"), "dispatch_seconds": 0.0}
    return scale.Machines(**{"step_seconds": 1.0, "gpus_per_node": 2, **free, **changes})


TASKS = {(batch, number): 10 for batch in range(2) for number in range(4)}


@pytest.mark.parametrize(("gpus", "seconds"), [(1, 80), (2, 40), (4, 20), (8, 10), (64, 10)])
def test_rollouts_are_spread(scale: Any, gpus: int, seconds: int) -> None:
    cluster = scale.Cluster(machines(scale), gpus)
    cluster.roll_out(TASKS)
    assert cluster.clock == seconds and cluster.busy_seconds == 80


def test_recording_is_waited_for_and_trajectories_move_once_a_node(scale: Any) -> None:
    cluster = scale.Cluster(machines(scale, load_seconds=100.0), 4)
    cluster.record(2, 50)
    assert cluster.clock == 150.0 and cluster.moved_bytes == 20.0
    cluster.roll_out(TASKS)
    assert cluster.clock == 170.0
    assert cluster.moved_bytes == 60.0, "two nodes, each of whose two workers stays with another prompt"


def test_the_link_serves_one_node_at_a_time(scale: Any) -> None:
    cluster = scale.Cluster(machines(scale, link_bytes_per_second=1.0, gpus_per_node=1), 3)
    cluster.roll_out({(0, number): 1 for number in range(3)})
    assert cluster.clock == 31.0 and cluster.moved_bytes == 30.0


def test_giving_out_tasks_takes_its_time(scale: Any) -> None:
    cluster = scale.Cluster(machines(scale, dispatch_seconds=2.0, tape_bytes=0.0), 8)
    cluster.roll_out({(0, number): 1 for number in range(8)})
    assert cluster.clock == 17.0
