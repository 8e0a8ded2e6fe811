"""What all commands share: exit codes, one line an error, JSON that parses, lists of values."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dit_accel.cli import main
from dit_accel.cli.program import spread_lists
from dit_accel.errors import GraphError
from dit_accel.profiling.error_graph import ErrorGraph


def test_debug_shows_the_traceback(graph: str) -> None:
    with pytest.raises(GraphError):
        main(["plan", graph, "--budget", "2", "--debug"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["plann"],
        ["plan"],
        ["plan", "g.json"],
        ["plan", "g", "--budget", "x"],
        ["plan", "g", "--milliseconds", "x"],
        ["plan", "g", "--budget", "3", "--speedup", "2"],
        ["plan", "g", "--milliseconds", "3", "--speedup", "2"],
        ["plan", "g", "--steps", "9"],
        ["plan", "g", "--budget", "3", "--steps", "9.5"],
        ["profile", "job.toml", "--polish", "x"],
        ["demo", "--prompts", "0"],
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1 and "--help" in err


def test_as_a_program(graph: str) -> None:
    """The only test that starts a process: exit codes and streams are the shell's."""
    program = [sys.executable, "-m", "dit_accel.cli", "plan", graph, "--budget"]
    good = subprocess.run([*program, "3"], capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, "0 2 4\n", "")
    bad = subprocess.run([*program, "2"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("GraphError: ") and bad.stderr.count("\n") == 1
    debug = subprocess.run([*program, "2", "--debug"], capture_output=True, text=True)
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_an_interrupt_says_how_to_go_on(
    graph: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ErrorGraph, "load", interrupt)
    assert main(["plan", graph, "--budget", "3"]) == 130
    assert "continues from its workdir" in capsys.readouterr().err


def test_a_list_goes_on_until_the_next_option() -> None:
    words = "--seeds 0 -1 2 --json x --metrics=a b --seeds 3 -- y"
    spread = "--seeds 0 --seeds -1 --seeds 2 --json x --metrics=a b --seeds 3 -- y"
    assert " ".join(spread_lists(words.split(), {"--seeds", "--metrics"})) == spread


def test_at_a_terminal_it_is_drawn_and_json_stays_json(
    graph: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["plan", graph, "--budget", "3"]) == 0
    assert capsys.readouterr().out == "█░█░█\n█ 3 full: 0 2 4\n░ 2 reuse\n"
    assert main(["plan", graph, "--budget", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compute_steps"] == [0, 2, 4]
