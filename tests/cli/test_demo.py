"""``dit-accel demo``: what it asks of the showcase and how it tells. What the showcase makes is tested beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel import showcase
from dit_accel.quality import metrics
from dit_accel.quality.records import QualityReport, QualityRow

from .shell import Shell

ROW = QualityRow("fast", 2, 4, 2.5, 3, {"psnr": (40.0, 1.0)}, None, 0)


def test_demo(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []

    def run(out: Path, **how: Any) -> QualityReport:
        asked.append((out, how))
        return QualityReport((ROW,))

    monkeypatch.setattr(showcase, "run_showcase", run)
    monkeypatch.setattr(metrics, "unavailable_metrics", lambda: {"lpips": "no weights"})
    text = shell.ok("demo", "--out", str(tmp_path), "--prompts", "2", "--seeds", "3", "--sparse")
    table, notes = text.split("\n\n")
    assert table.splitlines()[-1] == "| fast | 2 / 4 | 2.50× | 40.00 ± 1.00 | 3 |"
    assert (
        notes == f"lpips: not measured (no weights)\nThe page is {tmp_path / 'report.html'}, with the videos in it\n"
    )
    found = json.loads(shell.ok("demo", "--json"))
    assert (found["out"], found["not_measured"]) == ("dit-accel-demo", {"lpips": "no weights"})
    assert found["rows"][0]["name"] == "fast"
    common = {"metrics": ["psnr", "psnr_moving", "ssim", "st_lpips"]}
    more = {"num_prompts": 2, "seeds": range(101, 104), "with_sparse": True, "progress": True}
    few = {"num_prompts": 4, "seeds": range(101, 102), "with_sparse": False, "progress": False}
    assert asked == [(tmp_path, {**common, **more}), (Path("dit-accel-demo"), {**common, **few})]
