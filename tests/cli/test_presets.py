"""``dit-accel presets``."""

from __future__ import annotations

import json
from pathlib import Path

from .shell import Shell


def test_presets(shell: Shell, source: str, tmp_path: Path) -> None:
    names = ["dbcache-fast", "dbcache-medium", "dbcache-slow", "svg2", "svg2-turbo"]
    assert json.loads(shell.ok("presets", source, "--json"))["presets"] == names
    assert shell.ok("presets", source).split() == names
    assert "diffusers cannot load the pipeline" in shell.fails("presets", str(tmp_path))
