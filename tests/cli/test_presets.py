"""``dit-accel presets``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config, registry
from dit_accel.actions import PartialSteps

from .shell import Shell


def test_presets(shell: Shell, source: str, tmp_path: Path) -> None:
    names = ["dbcache-fast", "dbcache-medium", "dbcache-slow", "svg2", "svg2-turbo"]
    assert json.loads(shell.ok("presets", source, "--json"))["presets"] == names
    assert shell.ok("presets", source).split() == names
    assert "diffusers cannot load the pipeline" in shell.fails("presets", str(tmp_path))


def test_presets_in_detail(shell: Shell, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = CacheSchedule(8, (0, 4, 7), partial=PartialSteps((2,), 1, 1))
    presets = {
        "lemica": lambda: (LeMiCaConfig(planned, forecast="hold"),),
        "both": lambda: (SVG2Config(top_p=0.5), DBCacheConfig()),
        "svg2": lambda: (SVG2Config(),),
    }
    monkeypatch.setattr(registry, "presets_of", lambda _: presets)
    details = json.loads(shell.ok("presets", source, "--json"))["details"]
    assert [each["name"] for each in details] == ["both", "lemica", "svg2"]
    assert [each["method"] for each in details] == ["SVG2 + DBCache", "LeMiCa", "SVG2"]
    assert [(each["full_steps"], each["num_steps"]) for each in details] == [(None, None), (3, 8), (None, None)]
    assert details[0]["settings"] == {"top_p": 0.5} and details[1]["settings"]["forecast"] == "hold"
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    text = shell.ok("presets", source)
    assert "3 / 8 + 1 partial" in text and "as it runs" in text and " all " in text and "defaults" in text
