"""Files that want to be too much: too large, endless, too deep, ambiguous; and names that want to be paths."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dit_accel.cli.options import read_prompts
from dit_accel.documents import (
    MAX_DEPTH,
    MAX_INT_DIGITS,
    is_plain_name,
    parse_json,
    read_bytes,
    replacing,
    write_atomically,
)
from dit_accel.errors import DitAccelError, HubError, JobError, ScheduleError
from dit_accel.hub import HubFile
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job_file import JobFile
from dit_accel.profiling.workdir import read_description
from dit_accel.quality import QualityReport
from dit_accel.schedule import CacheSchedule

READERS: dict[str, Callable[[Path], Any]] = {
    "schedule": CacheSchedule.load,
    "graph": ErrorGraph.load,
    "report": QualityReport.load,
    "job file": JobFile.load,
    "prompts": read_prompts,
    "work directory": lambda path: read_description(path.parent),
}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.json"  # the name that a work directory has it under


@every_reader
def test_a_pipe_is_not_waited_for(read: Callable[[Path], Any], path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(DitAccelError, match="not a regular file"):
        read(path)


@every_reader
@pytest.mark.parametrize("target", ["/dev/zero", "/"])
def test_a_link_to_what_has_no_end_is_not_read(read: Callable[[Path], Any], path: Path, target: str) -> None:
    path.symlink_to(target)
    with pytest.raises(DitAccelError, match=r"not a regular file|is a directory"):
        read(path)


@every_reader
def test_a_huge_file_is_refused_unread(read: Callable[[Path], Any], path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(DitAccelError, match=r"has at most [\d,]+\. Is it the right file"):
        read(path)


def test_a_file_that_grows_while_it_is_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"x" * 11)
    seen = os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, 5, 0, 0, 0))
    monkeypatch.setattr("dit_accel.documents.os.fstat", lambda handle: seen)
    with pytest.raises(JobError, match="is 11 bytes; a job file has at most 10"):
        read_bytes(path, 10, JobError, "job")


DIGITS = "9" * (MAX_INT_DIGITS + 1)
BAD_JSON = {
    "a key twice": ('{"schema": 1, "schema": 2}', "'schema' is given twice"),
    "a key twice inside": ('{"a": [{"b": 1, "b": 1}]}', "'b' is given twice"),
    "a long integer": (f'{{"a": {DIGITS}}}', "an integer of 301 digits"),
    "a longer integer": (f'{{"a": -{"9" * 6000}}}', "an integer of 6,001 digits"),
    "a large float": ('{"a": 1e400}', "too large for a float"),
    "no number": ('{"a": -Infinity}', "-Infinity is not a JSON number"),
    "deep": ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), f"nested deeper than {MAX_DEPTH}"),
    "deep objects": ('{"a":' * (MAX_DEPTH + 2) + "1" + "}" * (MAX_DEPTH + 2), f"nested deeper than {MAX_DEPTH}"),
    "bottomless": ("[" * 100_000, "not valid JSON"),
    "two documents": ("{} {}", "not valid JSON"),
}


@pytest.mark.parametrize(("text", "words"), BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("name", ["schedule", "graph", "report", "work directory"])
def test_ambiguous_and_boundless_json_is_refused(path: Path, name: str, text: str, words: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DitAccelError, match=words) as caught:
        READERS[name](path)
    assert len(str(caught.value)) < 400


def test_what_is_just_allowed_is_read() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deepest, JobError, "it") and parse_json(DIGITS[1:], JobError, "it") == 10**MAX_INT_DIGITS - 1
    assert float(DIGITS[1:]) < float("inf")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_are_as_open_as_the_user_wants(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(path, "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_link_is_replaced_and_what_it_leads_to_stays(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    path.symlink_to(tmp_path / "secret")
    write_atomically(path, "text")
    assert not path.is_symlink() and (tmp_path / "secret").read_text() == "mine"


def test_a_link_under_a_known_unfinished_name_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "job.tmp").symlink_to(tmp_path / "secret")
    with replacing(path, tmp_path / "job.tmp") as temporary:
        temporary.write_text("text")
    assert (tmp_path / "secret").read_text() == "mine" and path.read_text() == "text"


def test_unfinished_names_cannot_be_guessed(path: Path) -> None:
    names = set()
    for _ in range(3):
        with replacing(path) as temporary:
            names.add(temporary.name)
            assert temporary.parent == path.parent
    assert len(names) == 3 and all(name.startswith(".") for name in names)


BAD_NAMES = (
    *(
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:",
        "a\0",
        "a\n",
        "a ",
        "A",
        "é",
        "-rf",
        "~",
        "a.b",
        "*",
    ),
    *("con", "nul", "aux", "com1", "lpt9", "a" * 65, "\u202ea", "%2e%2e", "file:a"),
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_is_no_path(name: str) -> None:
    assert not is_plain_name(name)
    assert is_plain_name("lemica-fast") and is_plain_name("a" * 64)


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name != "A"])
def test_the_hub_takes_no_such_name(name: str) -> None:
    with pytest.raises(HubError, match="cannot be the name of a schedule"):
        HubFile("schedule", "me/schedules", name)


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name not in ("", "file:a")])
def test_no_shipped_schedule_is_found_under_such_a_name(name: str) -> None:
    with pytest.raises(ScheduleError, match="No shipped schedule"):
        CacheSchedule.resolve(f"digits-wan/{name}") if ":" not in name else CacheSchedule.resolve(name[:1])


@pytest.mark.parametrize("key", ["import", "module", "class", "path", "file", "backend_module", "__class__"])
def test_a_schedule_names_nothing_to_open_or_import(path: Path, key: str) -> None:
    whole = json.loads(CacheSchedule(6, (0, 3)).to_json())
    path.write_text(json.dumps({**whole, key: "os"}), encoding="utf-8")
    with pytest.raises(ScheduleError, match="unknown keys"):
        CacheSchedule.load(path)


JOB = """
[job]
name = {name}
[pipeline]
source = "demo"
[profile]
prompts = ["a"]
num_inference_steps = 6
[inputs]
x = {x}
[plan]
presets = {{ {preset} = 3 }}
"""


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_job_names_no_path(path: Path, name: str) -> None:
    for fields in ({"name": name, "preset": "fast"}, {"name": "mine", "preset": name}):
        quoted = {key: json.dumps(value) for key, value in fields.items()}
        path.write_text(JOB.format(x="1", **quoted), encoding="utf-8")
        with pytest.raises(JobError, match="cannot name files"):
            JobFile.load(path)


def test_a_job_is_not_nested_without_end(path: Path) -> None:
    text = JOB.format(name='"mine"', preset="fast", x="[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JobError, match=f"nested deeper than {MAX_DEPTH}"):
        JobFile.load(path)
