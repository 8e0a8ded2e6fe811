"""What a `CacheSchedule` says beyond its compute steps: what is refused, and the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel.actions import MAX_WEIGHTS, PartialSteps, SparseSteps
from dit_accel.errors import ScheduleError
from dit_accel.schedule import CacheSchedule

from .conftest import document

NUM_STEPS, COMPUTE = 10, (0, 2, 5, 9)
NAN, INF = float("nan"), float("inf")
NESTED = {"1": {"2": 3}}


def schedule(**extras: Any) -> CacheSchedule:
    return CacheSchedule(NUM_STEPS, COMPUTE, **extras)


def v2_document(**changes: Any) -> str:
    extras = {"version": 2, "compute_steps": list(COMPUTE), "forecasts": {"6": [-1, 2]}, "partial": "", "sparse": ""}
    plain = json.loads(document(**{**extras, **changes}))
    return json.dumps({key: None if value == "" else value for key, value in plain.items()})


# Forecasts


def test_weights_are_kept_as_floats_and_others_hold() -> None:
    found = schedule(forecasts={6: [-1, 2], 8: (0.25, 0.25, 0.5), 1: [0.5]})
    assert found.forecasts == {6: (-1.0, 2.0), 8: (0.25, 0.25, 0.5), 1: (0.5,)}
    assert all(type(weight) is float for weight in found.weights(6))
    assert (found.weights(6), found.weights(1), found.weights(7)) == ((-1.0, 2.0), (0.5,), (1.0,))


def test_weights_that_hold_are_not_worth_a_word() -> None:
    assert schedule(forecasts={6: [1], 7: (1.0,)}) == schedule()
    assert schedule(forecasts={6: [0.0, 1.0]}).forecasts == {6: (0.0, 1.0)}  # two are kept for it


@pytest.mark.parametrize(
    ("step", "num_values", "sources"),
    [(1, 1, (0,)), (1, 3, (0,)), (6, 1, (5,)), (6, 2, (2, 5)), (6, 3, (0, 2, 5)), (5, 2, (0, 2)), (9, 9, (0, 2, 5))],
)
def test_sources_are_the_last_compute_steps_before_a_step(step: int, num_values: int, sources: tuple[int]) -> None:
    assert schedule().sources(step, num_values) == sources


@pytest.mark.parametrize(
    ("forecasts", "words"),
    [
        ([(6, [1.0])], r"forecasts must map steps to weights, got \[\(6, \[1.0\]\)\]"),
        (None, "forecasts must map steps to weights, got None"),
        ({5: [1.0]}, "forecasts: 5 is not a step that reuses. Leave compute steps out"),
        ({0: [1.0]}, "forecasts: 0 is not a step that reuses"),
        ({10: [1.0]}, "forecasts: 10 is not a step that reuses"),
        ({-1: [1.0]}, "forecasts: -1 is not a step that reuses"),
        ({True: [1.0]}, "forecasts: True is not a step that reuses"),
        ({6.0: [1.0]}, "forecasts: 6.0 is not a step that reuses"),
        ({"6": [1.0]}, "forecasts: '6' is not a step that reuses"),
        ({1: [0.5, 0.5]}, r"step 1 must have 1 to 1 finite weights.*got \[0.5, 0.5\]"),
        ({6: [0.1] * 4}, "step 6 must have 1 to 3 finite weights, one for each of the last compute steps"),
        ({6: []}, r"step 6 must have 1 to 3 finite weights.*got \[\]"),
        ({6: 1.0}, "step 6 must have .*got 1.0"),
        ({6: "1"}, "step 6 must have .*got '1'"),
        ({6: [NAN]}, r"step 6 must have .*got \[nan\]"),
        ({6: [-INF]}, r"step 6 must have .*got \[-inf\]"),
        ({6: [True]}, r"step 6 must have .*got \[True\]"),
        ({6: [None]}, r"step 6 must have .*got \[None\]"),
        ({6: [10**400]}, "step 6 must have .*finite weights"),
    ],
)
def test_bad_forecasts_are_refused(forecasts: Any, words: str) -> None:
    with pytest.raises(ScheduleError, match=words) as caught:
        schedule(forecasts=forecasts)
    assert len(str(caught.value)) < 300


def test_there_is_a_limit_to_what_is_kept() -> None:
    many = range(MAX_WEIGHTS + 1)
    CacheSchedule(20, tuple(many), forecasts={15: [0.1] * MAX_WEIGHTS})
    with pytest.raises(ScheduleError, match=f"1 to {MAX_WEIGHTS} finite weights"):
        CacheSchedule(20, tuple(many), forecasts={15: [0.1] * len(many)})


# Partial and sparse steps


def test_partial_and_sparse_steps_are_kept() -> None:
    found = schedule(partial=PartialSteps([1, 6], 1, 0), sparse=SparseSteps([2, 9], {"top_p": 0.5}))
    assert found.partial == PartialSteps((1, 6), 1, 0) and found.sparse == SparseSteps((2, 9), {"top_p": 0.5})


@pytest.mark.parametrize(
    ("extras", "words"),
    [
        ({"partial": SparseSteps((1,))}, r"partial must be a PartialSteps or None, got SparseSteps\("),
        ({"sparse": PartialSteps((2,), 1, 1)}, r"sparse must be a SparseSteps or None, got PartialSteps\("),
        ({"partial": {"steps": [1]}}, "partial must be a PartialSteps or None, got {'steps"),
        ({"partial": False}, "partial must be a PartialSteps or None, got False"),
        ({"partial": PartialSteps((), 1, 1)}, r"partial.steps must be a non-empty list of integers, got \(\)"),
        ({"partial": PartialSteps(None, 1, 1)}, "partial.steps must be a non-empty list of integers, got None"),
        ({"sparse": SparseSteps((2.0,))}, r"sparse.steps must be a non-empty list of integers, got \(2.0,\)"),
        ({"sparse": SparseSteps((True,))}, r"got \(True,\)"),
        ({"sparse": SparseSteps("25")}, "sparse.steps must be a non-empty list of integers, got '25'"),
        ({"partial": PartialSteps((1, 5), 1, 1)}, r"steps must be increasing and steps that are not compute steps"),
        ({"partial": PartialSteps((10,), 1, 1)}, r"not compute steps, got \(10,\)"),
        ({"partial": PartialSteps((-1,), 1, 1)}, r"not compute steps, got \(-1,\)"),
        ({"partial": PartialSteps((6, 1), 1, 1)}, r"must be increasing and .*got \(6, 1\)"),
        ({"partial": PartialSteps((6, 6), 1, 1)}, r"must be increasing and .*got \(6, 6\)"),
        ({"sparse": SparseSteps((2, 3))}, r"sparse.steps must be increasing and compute steps, got \(2, 3\)"),
        ({"sparse": SparseSteps((5, 2))}, r"sparse.steps must be increasing and compute steps, got \(5, 2\)"),
        ({"partial": PartialSteps((1,), 0, 0)}, r"at least 0, not both 0, got \(0, 0\)"),
        ({"partial": PartialSteps((1,), -1, 2)}, r"must be integers of at least 0, not both 0, got \(-1, 2\)"),
        ({"partial": PartialSteps((1,), 1.0, 0)}, r"got \(1.0, 0\)"),
        ({"partial": PartialSteps((1,), 1, False)}, r"got \(1, False\)"),
        ({"partial": PartialSteps((1,), None, 1)}, r"got \(None, 1\)"),
        ({"sparse": SparseSteps((2,), [("a", 1)])}, "sparse.config must be a JSON object, got"),
        ({"sparse": SparseSteps((2,), None)}, "sparse.config must be a JSON object, got None"),
    ],
)
def test_bad_partial_and_sparse_steps_are_refused(extras: dict[str, Any], words: str) -> None:
    with pytest.raises(ScheduleError, match=words) as caught:
        schedule(**extras)
    assert len(str(caught.value)) < 300


# The file


def test_a_schedule_without_extras_is_written_for_older_versions_too() -> None:
    for plain in (schedule(), schedule(forecasts={6: [1.0]})):
        assert json.loads(plain.to_json()) == {
            "schema": "dit_accel.cache_schedule",
            "version": 1,
            "num_steps": NUM_STEPS,
            "compute_steps": list(COMPUTE),
            "provenance": {},
        }


@pytest.mark.parametrize(
    "extras",
    [
        {"forecasts": {8: [0.1, 1 / 3], 6: [-1.0, 5e-324, 1e300]}},
        {"partial": PartialSteps((1, 6), 0, 2)},
        {"sparse": SparseSteps((2, 9), {"top_p": 0.5, "nested": NESTED})},
        {"forecasts": {8: [2.0]}, "partial": PartialSteps((8,), 1, 1), "sparse": SparseSteps((0,))},
    ],
)
def test_extras_survive_exactly(tmp_path: Path, extras: dict[str, Any]) -> None:
    before = CacheSchedule(NUM_STEPS, COMPUTE, {"name": "mine"}, **extras)
    before.save(tmp_path / "s.json")
    found = CacheSchedule.load(tmp_path / "s.json")
    assert found == before and found.name == "mine"
    assert (found.forecasts, found.partial, found.sparse) == (before.forecasts, before.partial, before.sparse)
    assert json.loads((tmp_path / "s.json").read_text())["version"] == 2
    assert found.to_json() == before.to_json()


def test_a_second_version_may_leave_everything_out() -> None:
    assert CacheSchedule.from_json(v2_document(forecasts={})).forecasts == {}
    assert CacheSchedule.from_json(v2_document()).forecasts == {6: (-1.0, 2.0)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (document(version=1, forecasts={"6": [1]}), r"unknown keys \['forecasts'\]"),
        (document(version=2), r"missing keys \['forecasts', 'partial', 'sparse'\]"),
        (v2_document(forecasts=[]), r"forecasts must map steps to weights, got \[\]"),
        (v2_document(forecasts=""), "forecasts must map steps to weights, got None"),
        (v2_document(forecasts={"6.0": [1]}), "forecasts must map steps to weights, got {'6.0'"),
        (v2_document(forecasts={"-6": [1]}), "forecasts must map steps to weights, got {'-6'"),
        (v2_document(forecasts={"9" * 4000: [1]}), "forecasts must map steps to weights"),
        (v2_document(forecasts={"99": [1]}), "forecasts: 99 is not a step that reuses"),
        (v2_document(forecasts={"6": ["1"]}), "step 6 must have 1 to 3 finite weights"),
        (v2_document(partial=[1]), r"PartialSteps must be null or have the keys \['corrector_blocks', .*got \[1\]"),
        (v2_document(partial={"steps": [1]}), "PartialSteps must be null or have the keys"),
        (v2_document(partial={"steps": 1, "probe_blocks": 1, "corrector_blocks": 0}), "non-empty list of integers"),
        (v2_document(sparse={"steps": [2], "config": {}, "more": 1}), r"the keys \['config', 'steps'\], got"),
        (v2_document(sparse={"steps": [3], "config": {}}), "sparse.steps must be increasing and compute steps"),
        (v2_document(sparse={"steps": [2], "config": []}), r"sparse.config must be a JSON object, got \[\]"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScheduleError, match=words) as caught:
        CacheSchedule.load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500
