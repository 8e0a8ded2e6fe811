"""``dit-accel bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import tiny_inputs
from .shell import Shell


@pytest.fixture
def options(source: str) -> list[str]:
    return ["bench", "--pipeline", source, "--inputs", json.dumps(tiny_inputs()), "--steps", "4", "--repeats", "1"]


def test_bench(shell: Shell, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    found = json.loads(shell.ok(*options, "--presets", "dbcache-fast", "svg2", "--out", str(out), "--json"))
    assert [row["subject"] for row in found["rows"]] == ["baseline", "dbcache-fast", "svg2"]
    saved = json.loads(out.read_text())
    assert saved["rows"] == found["rows"] and saved["hardware"] == found["hardware"]
    assert saved["rows"][1]["ratio"] > 0 and saved["rows"][1]["setting"]["num_inference_steps"] == 4


def test_bench_as_text_and_with_other_settings(shell: Shell, options: list[str]) -> None:
    text = shell.ok(*options, "--presets", "dbcache-fast", "--set", "max_warmup_steps=3", "--set", "forecast=hold")
    head, _, baseline, row, _, note = text.splitlines()
    assert head.startswith("| name | seconds | speed-up | p20 to p80 | full steps | cache | peak memory |")
    assert baseline.startswith("| baseline | ") and baseline.endswith("| not measured |")
    assert row.startswith("| dbcache-fast, max_warmup_steps=3, forecast=hold | ") and "× |" in row and "MiB" in row
    assert "Rounds: 1." in note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--set", "top_p=0.5"], "No config has top_p"),
        (["--set", "forecast"], "--set 'forecast' sets nothing. Write FIELD=VALUE"),
        (["--set", "max_warmup_steps=-1"], "max_warmup_steps must be an integer of at least 0, got -1"),
        (["--out", "no/such/rows.json"], "The folder of --out 'no/such/rows.json' does not exist"),
        (["--inputs", '{"repeats": 2}'], "got repeats"),
        (["--inputs", '{"prompt": "x"}'], "got prompt. Leave them out"),
    ],
)
def test_bench_errors(shell: Shell, options: list[str], changes: list[str], words: str) -> None:
    assert words in shell.fails(*options, "--presets", "dbcache-fast", *changes)
