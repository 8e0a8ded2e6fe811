"""``docs/screenshots.py`` shows what the program prints."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from dit_accel.cli import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def screenshots() -> Any:
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "docs" / "screenshots.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_picture_is_of_a_command_and_its_output(screenshots: Any) -> None:
    arguments = "plan offline_profiles/digits-wan/50-steps.graph.json --budget 17"
    printed = screenshots.run(arguments)
    assert "17 full" in printed and "\x1b[32m" in printed, "as at a terminal, with colours"
    svg = screenshots.picture(arguments, printed).replace("&#160;", " ")
    assert svg.startswith("<svg") and f"$ dit-accel {arguments}" in svg and " 17 full: 0 1 2 " in svg


def test_every_picture_is_there_and_of_a_command_that_is(screenshots: Any) -> None:
    commands = vars(typer.main.get_command(app))["commands"]
    for name, arguments in screenshots.PICTURES.items():
        svg = (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8").replace("&#160;", " ")
        assert f"$ dit-accel {arguments}" in svg
        first, *words = shlex.split(arguments)
        if first != "--help":
            commands[first].make_context(first, words)
