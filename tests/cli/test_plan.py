"""``dit-accel plan``: budgets, milliseconds and speed-ups, and other steps than were profiled."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dit_accel.actions import PartialSteps, SparseSteps
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.residual_model import ResidualModel
from dit_accel.profiling.step_actions import StepActions
from dit_accel.schedule import CacheSchedule

from .shell import Shell


@pytest.fixture
def timed(tmp_path: Path) -> str:
    """A graph with step times, partial and sparse steps."""
    path = tmp_path / "timed.json"
    times = {"full": 8.0, "reuse": 1.0, "partial": 2.0, "sparse": 4.0}
    actions = StepActions(times, (1, 1), {(0, 2): 0.5, (2, 4): 0.5}, {"top_p": 0.5}, {0: 0.25})
    ErrorGraph(5, {(0, 2): 2.0, (2, 4): 1.0, (0, 4): 9.0}, actions=actions).save(path)
    return str(path)


@pytest.fixture
def model_graph(tmp_path: Path) -> str:
    """A graph with a residual model: eight steps that are evenly spaced, of shift 3."""
    path, num_steps = tmp_path / "model.json", 8
    unshifted = [1 - step / num_steps - 0.001 for step in range(num_steps)]
    levels = [3 * level / (1 + 2 * level) for level in unshifted]
    times = [math.log((1 - level) / level) for level in levels]
    gram = np.exp(-(np.subtract.outer(times, times) ** 2) / 8)
    model = ResidualModel(tuple(times), gram, (1.0,) * num_steps)
    edges = {(i, j): model.estimate(i, j, "hold") for i in range(6) for j in range(i + 2, min(i + 5, 8))}
    ErrorGraph(num_steps, edges, model=model, provenance={"scheduler": {"shift": 3.0}}).save(path)
    return str(path)


def test_plan(shell: Shell, graph: str, tmp_path: Path) -> None:
    assert shell.ok("plan", graph, "--budget", "3") == "0 2 4\n"
    out = tmp_path / "s.json"
    found = json.loads(shell.ok("plan", graph, "--budget", "4", "--out", str(out), "--json"))
    assert found["num_steps"] == 5 and tuple(found["compute_steps"]) == CacheSchedule.load(out).compute_steps
    # errors 2 and 1 against 0 and 3: a small power favours the path with the zero
    assert shell.ok("plan", graph, "--budget", "3", "--objective", "sum-power", "--power", "0.01") == "0 1 4\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "2"], "GraphError: No path of 2 full steps"),
        (["--budget", "3", "--objective", "best"], "objective='best' is not allowed"),
        (["--budget", "3", "--objective", "sum-power", "--power", "nan"], "power must be a finite number above 0"),
        (["--budget", "3", "--out", "no/such/folder/s.json"], "The schedule cannot be written to"),
        (["--budget", "3", "--out", "."], "The schedule cannot be written to"),
    ],
)
def test_plan_errors(shell: Shell, graph: str, arguments: list[str], words: str) -> None:
    assert words in shell.fails("plan", graph, *arguments)


def test_plan_of_what_is_no_graph(shell: Shell, tmp_path: Path) -> None:
    assert "There is no error graph file" in shell.fails("plan", str(tmp_path / "absent.json"), "--budget", "3")
    assert "is a directory" in shell.fails("plan", str(tmp_path), "--budget", "3")
    (tmp_path / "s.json").write_text(CacheSchedule(5, (0, 2)).to_json())
    assert "not a dit_accel.error_graph file" in shell.fails("plan", str(tmp_path / "s.json"), "--budget", "3")


def test_plan_under_a_time(shell: Shell, timed: str, tmp_path: Path) -> None:
    assert shell.ok("plan", timed, "--milliseconds", "28") == "0 2 4\npartial: 1 3\n"
    assert shell.ok("plan", timed, "--milliseconds", "24") == "0 2 4\npartial: 1 3\nsparse: 0\n"
    assert shell.ok("plan", timed, "--speedup", "1") == "0 1 2 3 4\n"
    out = tmp_path / "s.json"
    found = json.loads(shell.ok("plan", timed, "--speedup", "1.6", "--out", str(out), "--json"))
    assert (found["compute_steps"], found["partial_steps"], found["sparse_steps"]) == ([0, 2, 4], [1, 3], [0])
    saved = CacheSchedule.load(out)
    assert saved.partial == PartialSteps((1, 3), 1, 1) and saved.sparse == SparseSteps((0,), {"top_p": 0.5})
    assert saved.provenance["milliseconds"] == 24


def test_plan_for_other_steps_and_another_shift(shell: Shell, model_graph: str, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    found = json.loads(shell.ok("plan", model_graph, "--budget", "4", "--steps", "11", "--out", str(out), "--json"))
    assert found["num_steps"] == 11 and len(found["compute_steps"]) == 4
    saved = CacheSchedule.load(out)
    assert saved.provenance["resampled_from"] == {"num_steps": 8, "shift": 3.0}
    assert saved.provenance["scheduler"] == {"shift": 3.0} and list(saved.compute_steps) == found["compute_steps"]
    shifted = ("--shift", "9", "--out", str(out))
    assert len(shell.ok("plan", model_graph, "--budget", "4", *shifted).split()) == 4
    assert CacheSchedule.load(out).provenance["scheduler"] == {"shift": 9.0}
    assert CacheSchedule.load(out).num_steps == 8


def test_plan_for_what_cannot_be_told(shell: Shell, graph: str, model_graph: str) -> None:
    assert "holds no residual model" in shell.fails("plan", graph, "--budget", "3", "--steps", "9")
    assert "num_steps must be an integer from 3" in shell.fails("plan", model_graph, "--budget", "3", "--steps", "2")
    assert "shift must be a finite number above 0" in shell.fails(
        "plan", model_graph, "--budget", "3", "--shift", "-1"
    )
    assert "holds no measured milliseconds" in shell.fails("plan", model_graph, "--speedup", "2", "--steps", "9")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--milliseconds", "3"], "No schedule on this graph takes at most 3 ms"),
        (["--speedup", "40"], "No schedule on this graph takes at most 1 ms"),
        (["--milliseconds", "nan"], "milliseconds must be a finite number above 0, got nan"),
        (["--milliseconds", "-5"], "milliseconds must be a finite number above 0, got -5.0"),
        (["--speedup", "0"], "speedup must be a finite number above 0, got 0.0"),
        (["--speedup", "inf"], "speedup must be a finite number above 0, got inf"),
    ],
)
def test_plan_under_a_time_errors(shell: Shell, timed: str, graph: str, arguments: list[str], words: str) -> None:
    assert words in shell.fails("plan", timed, *arguments)
    if "No schedule" in words:
        assert "This graph holds no measured milliseconds" in shell.fails("plan", graph, *arguments)
