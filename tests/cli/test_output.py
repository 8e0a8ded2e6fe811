"""Results as JSON, as text, and drawn."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from dit_accel.cli.options import quiet_loading
from dit_accel.cli.output import Result, Table, json_value, show, status


@dataclass(frozen=True)
class Found:
    name: str
    error: float
    steps: tuple[int, ...]


def drawn(table: Table, width: int = 60) -> str:
    text = io.StringIO()
    Console(file=text, width=width, markup=False).print(table)
    return text.getvalue()


def test_a_table_is_markdown_and_back() -> None:
    table = Table(["name", "psnr"], [["a|b", "3.1"], ["c", ""]])
    assert str(table) == "| name | psnr |\n| --- | ---: |\n| a\\|b | 3.1 |\n| c |  |"
    assert Table.from_markdown(f"{table}\n") == table
    assert str(Table(["name"], [["a"]], text="a")) == "a"


def test_a_drawn_table_names_a_group_once_and_cuts_nothing() -> None:
    text = drawn(
        Table(["preset", "figure", "value"], [["a", "x", "1"], ["a", "y", "[2]"], ["b", "x", "3"]], num_words=2)
    )
    lines = [line.split() for line in text.splitlines()]
    assert [line[:1] for line in lines if "─" not in str(line)] == [["preset"], ["a"], ["y"], [], ["b"]]
    assert lines[3] == ["y", "[2]"], "and takes nothing for markup"
    narrow = drawn(Table(["preset", "settings"], [["lemica-medium", "top_p=0.8, min_kept_ratio=0.3"]], 2), width=30)
    assert "lemica-medium" in narrow and "…" not in narrow and "min_kept_r" in narrow


def test_json_has_json_types_only() -> None:
    value = {"row": Found("a", math.nan, (1, 2)), "path": Path("x/y"), 3: [math.inf, 0.5, None, True]}
    assert json_value(value) == {
        "row": {"name": "a", "error": None, "steps": [1, 2]},
        "path": "x/y",
        "3": [None, 0.5, None, True],
    }


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_where_it_is_shown_decides_how(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool, as_json: bool
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if is_terminal else "0")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    show(Result({"value": 1}, [Table(["name"], [["[a]"]]), "[text]", "more"]), as_json)
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out) == {"value": 1}
    elif is_terminal:
        assert "───" in out and "[a]" in out and "[text]" in out and "|" not in out
    else:
        assert out == "| name |\n| --- |\n| [a] |\n\n[text]\nmore\n"


def test_status_says_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with status("Loading"):
        pass
    assert capsys.readouterr() == ("", "")


def test_status_is_shown_at_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with status("Loading"):
        pass
    out, err = capsys.readouterr()
    assert out == "" and "Loading" in err and "\n\n" not in err


def test_loading_is_quiet_and_only_loading() -> None:
    from diffusers.utils import logging

    assert logging.is_progress_bar_enabled()
    with quiet_loading():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()
