"""`CacheSchedule`: what is valid, its file, and that a bad file ends in a `ScheduleError`, whatever is in it."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel import schedule as schedule_module
from dit_accel.configs import LeMiCaConfig
from dit_accel.errors import DitAccelError, ScheduleError
from dit_accel.schedule import MAX_FILE_BYTES, MAX_STEPS, CacheSchedule

HUGE = 10**5000  # Python refuses to print it


def document(**changes: Any) -> str:
    """A valid schedule file with some keys replaced; ``None`` as a value takes the key out."""
    valid = {"schema": "dit_accel.cache_schedule", "version": 1, "num_steps": 10, "compute_steps": [0, 4, 9]}
    merged: dict[str, Any] = {**valid, "provenance": {"name": "mine"}, **changes}
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def test_steps_are_kept() -> None:
    schedule = CacheSchedule(10, [0, 4, 9])  # type: ignore[arg-type]
    assert schedule.compute_steps == (0, 4, 9) and schedule.budget == 3
    assert schedule.name == "3 of 10 steps"
    assert CacheSchedule(2, (0,)).budget == 1
    assert CacheSchedule(MAX_STEPS, (0, MAX_STEPS - 1)).num_steps == MAX_STEPS


@pytest.mark.parametrize(
    ("num_steps", "compute_steps", "words"),
    [
        (1, (0,), "num_steps must be an integer from 2 to 10000, got 1"),
        (MAX_STEPS + 1, (0,), "got 10001"),
        (True, (0,), "got True"),
        (10.0, (0,), "got 10.0"),
        ("10", (0,), "got '10'"),
        pytest.param(HUGE, (0,), "got a int that is too large to show", id="huge num_steps"),
        (10, (), "must start with 0.*got ()"),
        (10, (1, 5), "must start with 0.*got (1, 5)"),
        (10, (0, 5, 5), "must increase strictly, got 5 after 5"),
        (10, (0, 6, 5), "must increase strictly, got 5 after 6"),
        (10, (0, 10), "must stay below num_steps=10, got 10"),
        pytest.param(10, (0, HUGE), "must stay below num_steps=10, got a int", id="huge step"),
        (10, (0, True), "must be a list of integers, got (0, True)"),
        (10, (0, 1.0), "must be a list of integers, got (0, 1.0)"),
        (10, (-1, 0), "got (-1, 0)"),
        (10, "0", "must be a list of integers, got '0'"),
        (10, None, "must be a list of integers, got None"),
    ],
)
def test_invalid_steps_are_quoted(num_steps: Any, compute_steps: Any, words: str) -> None:
    pattern = re.escape(words).replace(r"\.\*", ".*")
    with pytest.raises(ScheduleError, match=pattern):
        CacheSchedule(num_steps, compute_steps)


def test_errors_are_short_and_of_the_family() -> None:
    with pytest.raises(ScheduleError) as caught:
        CacheSchedule(10, [0, *["x"] * 100_000])  # type: ignore[arg-type, list-item]
    assert len(str(caught.value)) < 200
    assert isinstance(caught.value, DitAccelError) and isinstance(caught.value, ValueError)


def test_provenance_must_be_an_object() -> None:
    with pytest.raises(ScheduleError, match="provenance must be a JSON object, got list"):
        CacheSchedule(10, (0,), [])  # type: ignore[arg-type]


def test_uniform_by_hand() -> None:
    assert CacheSchedule.uniform(11, 3).compute_steps == (0, 5, 10)
    assert CacheSchedule.uniform(10, 10).compute_steps == tuple(range(10))
    assert CacheSchedule.uniform(10, 2).compute_steps == (0, 9)
    assert CacheSchedule.uniform(10, 4).provenance == {"name": "uniform-4", "objective": "uniform", "budget": 4}


@given(st.integers(2, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
@settings(deadline=None, max_examples=200)
def test_uniform_is_even_and_of_the_budget(shape: tuple[int, int]) -> None:
    num_steps, budget = shape
    steps = CacheSchedule.uniform(num_steps, budget).compute_steps
    gaps = [b - a for a, b in pairwise(steps)]
    assert (len(steps), steps[0], steps[-1]) == (budget, 0, num_steps - 1)
    assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize(
    ("num_steps", "budget", "words"),
    [
        (10, 1, "got 1"),
        (10, 11, "from 2 to num_steps=10, got 11"),
        (10, True, "got True"),
        (10, 3.0, "got 3.0"),
        ("10", 3, "num_steps must be an integer"),
        (10**12, 10**12, "num_steps must be an integer"),
    ],
)
def test_uniform_refuses(num_steps: Any, budget: Any, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        CacheSchedule.uniform(num_steps, budget)


# The file


def test_round_trip_is_exact(tmp_path: Path) -> None:
    provenance = {"name": "ü\ud800", "errors": [0.1, 1e-323, 2**53 + 1], "none": None, "deep": {"x": [True, "𝄞"]}}
    schedule = CacheSchedule(10, (0, 4, 9), provenance)
    path = tmp_path / "s.json"
    schedule.save(path)
    assert CacheSchedule.load(path) == CacheSchedule.load(str(path)) == schedule
    assert (
        path.read_text(encoding="utf-8") == schedule.to_json() == CacheSchedule.from_json(schedule.to_json()).to_json()
    )
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        (document()[:-9], "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        (document(provenance={"x": float("nan")}), "NaN is not a JSON number"),
        (document(provenance={"x": float("-inf")}), "-Infinity is not a JSON number"),
        (document(provenance={"x": 7}).replace("7", "1e999"), "1e999 is too large for a float"),
        ("9" * 5000, "not valid JSON"),
        ("[]", "is not a dit_accel.cache_schedule file .its schema is 'list'"),
        (document(schema="dit_accel.error_graph"), "its schema is 'dit_accel.error_graph'"),
        (document(schema=None), "its schema is None"),
        (document(version=2), "has schema version 2; this dit_accel reads 1. Update dit_accel"),
        (document(version=True), "schema version True"),
        (document(version=1.0), "schema version 1.0"),
        (document(num_steps=None), r"missing keys \['num_steps'\]"),
        (document(extra=1), r"unknown keys \['extra'\]"),
        (document(num_steps=True), "num_steps must be an integer"),
        (document(num_steps=10.0), "num_steps must be an integer"),
        (document(compute_steps=[0, 4.0]), "compute_steps must be a list of integers"),
        (document(compute_steps=[False, 4]), "compute_steps must be a list of integers"),
        (document(compute_steps={"0": 1}), "compute_steps must be a list of integers"),
        (document(provenance=[1]), "provenance must be a JSON object, got list"),
        (document(provenance="text"), "provenance must be a JSON object, got str"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScheduleError, match=words) as caught:
        CacheSchedule.load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match=r"There is no schedule file at .*absent\.json"):
        CacheSchedule.load(tmp_path / "absent.json")
    with pytest.raises(ScheduleError, match="is a directory"):
        CacheSchedule.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ScheduleError, match="There is no schedule file"):
        CacheSchedule.load(tmp_path / "file" / "s.json")
    (tmp_path / "latin.json").write_bytes(b'"\xfc"')
    with pytest.raises(ScheduleError, match="cannot be read as a schedule"):
        CacheSchedule.load(tmp_path / "latin.json")
    for impossible in ("a\0b.json", "x" * 5000 + ".json"):
        with pytest.raises(ScheduleError, match="cannot be read as a schedule"):
            CacheSchedule.load(impossible)


@pytest.mark.timeout(10)
def test_a_pipe_or_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero")):
        with pytest.raises(ScheduleError, match="not a regular file"):
            CacheSchedule.load(path)


def test_an_oversized_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.json"
    path.write_text(document().ljust(MAX_FILE_BYTES), encoding="utf-8")
    CacheSchedule.load(path)  # exactly the limit
    path.write_text(document().ljust(MAX_FILE_BYTES + 1), encoding="utf-8")

    def read(*_: object, **__: object) -> str:
        raise AssertionError("the file was read")

    monkeypatch.setattr(Path, "read_text", read)
    with pytest.raises(ScheduleError, match="1,048,577 bytes; a schedule file has at most 1,048,576"):
        CacheSchedule.load(path)


# Saving


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    old = CacheSchedule(10, (0, 4, 9))
    old.save(path)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(schedule_module.os, "replace", fail)
    with pytest.raises(ScheduleError, match="No space left on device"):
        CacheSchedule(10, (0, 5)).save(path)
    assert CacheSchedule.load(path) == old
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


def test_an_interrupted_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(schedule_module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        CacheSchedule(10, (0, 5)).save(tmp_path / "s.json")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for path in ("no/such/s.json", "file/s.json", "folder.json", "a\0.json"):
        with pytest.raises(ScheduleError, match="The schedule cannot be written to"):
            CacheSchedule(10, (0,)).save(tmp_path / path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.json"]


def test_provenance_that_json_cannot_hold(tmp_path: Path) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (float("nan"), object(), {1, 2}, nested):
        with pytest.raises(ScheduleError, match="provenance holds a value that JSON cannot"):
            CacheSchedule(10, (0,), {"x": value}).save(tmp_path / "s.json")
    assert list(tmp_path.iterdir()) == []


# Names


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of profiles with one schedule, and a valid schedule outside of it."""
    root = tmp_path / "package"
    (root / "digits-wan").mkdir(parents=True)
    (root / "jobs").mkdir()
    for path in (
        root / "digits-wan" / "lemica-fast.json",
        root / "digits-wan" / "50-steps.graph.json",
        root / "jobs" / "not-a-model.json",
        tmp_path / "outside" / "secret.json",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(document(), encoding="utf-8")
    monkeypatch.setattr(schedule_module, "files", lambda package: root)
    monkeypatch.chdir(root)
    return root


def test_shipped_names(shipped: Path) -> None:
    assert schedule_module.shipped_schedules() == ["digits-wan/lemica-fast"]
    expected = CacheSchedule(10, (0, 4, 9), {"name": "mine"})
    assert CacheSchedule.resolve("digits-wan/lemica-fast") == expected
    assert LeMiCaConfig("digits-wan/lemica-fast").cache_schedule == expected
    assert CacheSchedule.resolve(expected) is expected
    assert CacheSchedule.resolve(Path("../outside/secret.json")) == expected  # a path is the user's own choice
    assert CacheSchedule.resolve("../outside/secret.json") == expected


def test_an_unknown_name_is_met_with_a_suggestion(shipped: Path) -> None:
    with pytest.raises(ScheduleError) as caught:
        CacheSchedule.resolve("digits-wan/lemica-fst")
    for words in ("'digits-wan/lemica-fst'", "Did you mean 'digits-wan/lemica-fast'?", "ends in .json"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret",
        "digits-wan/../../outside/secret",
        "a/../../etc",
        "../package/digits-wan/lemica-fast",
        "digits-wan//lemica-fast",
        "./digits-wan/lemica-fast",
        "digits-wan/lemica-fast\0",
        "digits-wan/lemica-fast\n",
        "Digits-Wan/lemica-fast",
        "jobs/not-a-model",
        "digits-wan/50-steps.graph",
        "digits-wan\\lemica-fast",
        "/etc/hostname",
        "",
        ".",
    ],
)
def test_a_name_opens_nothing_but_what_ships(shipped: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, *_: object, **__: object) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(Path, "read_text", read)
    with pytest.raises(ScheduleError, match="No shipped schedule is called"):
        CacheSchedule.resolve(name)


def test_other_types_are_no_schedules() -> None:
    with pytest.raises(ScheduleError, match="a name, a path or a CacheSchedule, got int"):
        CacheSchedule.resolve(3)  # type: ignore[arg-type]


# Anything at all

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)


def check_parse(text: str) -> None:
    try:
        found = CacheSchedule.from_json(text)
    except ScheduleError as error:
        assert len(str(error)) < 1000
    else:
        assert CacheSchedule.from_json(found.to_json()) == found


@given(st.text() | st.text(alphabet='{}[]",:0123456789eE.-truefalsn\\'))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    check_parse(text)


@given(JSON)
@settings(deadline=None, max_examples=300)
def test_any_json_is_read_or_refused(value: Any) -> None:
    check_parse(json.dumps(value))


@given(
    st.dictionaries(
        st.sampled_from(["schema", "version", "num_steps", "compute_steps", "provenance", "x"]),
        JSON | st.integers(-1, 12) | st.lists(st.integers(-1, 12), max_size=5),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=500)
def test_any_change_of_a_valid_file_is_read_or_refused(changes: dict[str, Any]) -> None:
    check_parse(json.dumps({**json.loads(document()), **changes}))


@given(st.binary(max_size=64))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(data)
    with pytest.raises(ScheduleError):
        CacheSchedule.load(path)
