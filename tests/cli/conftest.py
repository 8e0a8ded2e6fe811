"""Fixtures of the command line: a shell, an error graph, a tiny pipeline on disk. Nothing needs the demo model."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_accel.pipelines import wan

from .shell import Shell, save_graph


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # they make rich take a pipe for a terminal
        monkeypatch.delenv(name, raising=False)
    return Shell(capsys)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny Wan pipeline."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny-wan"
    wan.tiny().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return save_graph(tmp_path)
