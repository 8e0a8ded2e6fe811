"""`Shell`: the command line in this process, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_accel.cli import main
from dit_accel.profiling.error_graph import ErrorGraph


class Shell:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def ok(self, *arguments: str) -> str:
        self._capsys.readouterr()
        assert main(arguments) == 0
        out: str = self._capsys.readouterr().out
        return out

    def fails(self, *arguments: str) -> str:
        """The one line of an error."""
        self._capsys.readouterr()
        assert main(arguments) == 1
        out, err = self._capsys.readouterr()
        *bars, line = str(err).splitlines()
        assert out == "" and all("Loading" in bar for bar in bars if bar) and "Traceback" not in err
        return line


def save_graph(folder: Path) -> str:
    """The path of a graph of five steps."""
    path = folder / "graph.json"
    ErrorGraph(5, {(0, 2): 2.0, (2, 4): 1.0, (1, 4): 3.0, (0, 3): 4.0}).save(path)
    return str(path)
