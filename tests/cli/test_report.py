"""``dit-accel report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel.schedule import CacheSchedule

from ..conftest import tiny_inputs
from .shell import Shell


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--metrics": "fid"}, "no metric 'fid'"),
        ({"--inputs": "{height: 16}"}, "--inputs is not valid JSON"),
        ({"--inputs": "[16]"}, "--inputs must be a JSON object, got [16]"),
        ({"--inputs": '{"seeds": [1]}'}, "--inputs holds arguments of the pipeline only, got seeds"),
        ({"--inputs": '{"prompt": "x"}'}, "got prompt. Leave them out"),
        ({"--prompts": "absent.txt"}, "There is no prompts file at absent.txt"),
        ({"--prompts": "."}, "is a directory"),
        ({"--presets": "lemica-fast"}, "UnknownPresetError"),
        ({"--pipeline": "."}, "diffusers cannot load"),
        ({"--out": "no/such/report.json"}, "Create it first"),
    ],
)
def test_report_errors(
    shell: Shell, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red seven\n\n")
    options: dict[str, Any] = {
        "--pipeline": source,
        "--presets": "x",
        "--prompts": "prompts.txt",
        "--metrics": "psnr",
        **changes,
    }
    assert words in shell.fails("report", *(text for option in options.items() for text in option))


def test_report(shell: Shell, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_accel import LeMiCaConfig, api

    monkeypatch.setattr(api, "_presets", lambda *_: {"half": lambda: (LeMiCaConfig(CacheSchedule(4, (0, 2))),)})
    (tmp_path / "prompts.txt").write_text("a red seven\n\n  a blue one  \n")
    options = ["--pipeline", source, "--presets", "half", "--prompts", str(tmp_path / "prompts.txt"), "--steps", "4"]
    inputs = ["--inputs", json.dumps(tiny_inputs()), "--metrics", "psnr", "--out", str(tmp_path / "report.json")]
    (row,) = json.loads(shell.ok("report", *options, *inputs, "--json"))["rows"]
    assert (row["name"], row["computed_steps"], row["num_videos"]) == ("half", 2, 2)
    assert json.loads((tmp_path / "report.json").read_text())["provenance"]["prompts"] == ["a red seven", "a blue one"]
