"""``dit-accel doctor``."""

from __future__ import annotations

import json

import pytest

from dit_accel.cli import main
from dit_accel.registry import all_specs

from .shell import Shell


def test_doctor(shell: Shell) -> None:
    found = json.loads(shell.ok("doctor", "--json"))
    assert found["packages"]["torch"] and found["device"]
    assert found["families"]["wan"][:2] == ["WanPipeline", "WanImageToVideoPipeline"]
    assert sum(map(len, found["families"].values())) == sum(len(spec.pipelines) for spec in all_specs())
    assert found["sparse_backends"]["torch"] == "ok"
    assert "runs on cuda" in found["sparse_backends"]["flashinfer"] or found["device"] != "cpu"
    text = shell.ok("doctor")
    assert "family wan: WanPipeline, WanImageToVideoPipeline" in text
    assert all(f"sparse attention backend {name}: {s}" in text for name, s in found["sparse_backends"].items())


def test_self_test_of_a_tiny_pipeline_and_of_one_on_disk(shell: Shell, source: str) -> None:
    found = json.loads(shell.ok("doctor", source, "--self-test", "LattePipeline", "--json"))
    assert [check["pipeline"] for check in found["self_test"]] == ["WanPipeline"] * 6 + ["LattePipeline"] * 6
    assert {check["problem"] for check in found["self_test"]} == {None}


def test_a_self_test_that_fails(shell: Shell, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", source, "--inputs", '{"height": 17}']) == 1
    out, err = capsys.readouterr()
    assert "| WanPipeline | a seed gives the same video twice | fail | ValueError: " in out
    assert err == "6 of 6 checks failed\n"
    assert "There is no family or pipeline class 'x'" in shell.fails("doctor", "--self-test", "x")
