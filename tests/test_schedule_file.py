"""The file of a `CacheSchedule`, and that a bad one ends in a `ScheduleError`; tests/fuzz has any other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dit_accel import documents
from dit_accel.errors import ScheduleError
from dit_accel.schedule import MAX_FILE_BYTES, CacheSchedule

from .conftest import document

# Loading


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
        (document(version=3), "has schema version 3; this dit_accel reads 1, 2. Update dit_accel"),
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

    monkeypatch.setattr(documents.os, "replace", fail)
    with pytest.raises(ScheduleError, match="No space left on device"):
        CacheSchedule(10, (0, 5)).save(path)
    assert CacheSchedule.load(path) == old
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


def test_an_interrupted_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(documents.os, "fsync", interrupt)
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
        with pytest.raises(
            ScheduleError, match="provenance, or the config of sparse steps, holds a value that JSON cannot"
        ):
            CacheSchedule(10, (0,), {"x": value}).save(tmp_path / "s.json")
    assert list(tmp_path.iterdir()) == []
