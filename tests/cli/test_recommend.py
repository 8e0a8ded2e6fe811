"""``dit-accel recommend``: what it passes on and how it shows the answer. The choice is tested with `recommend`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel import recommend as recommendations
from dit_accel.quality.records import QualityRow

from .shell import Shell

ROW = QualityRow("fast", 2, 4, 2.5, 3, {"psnr": (40.0, 1.0)}, None, 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `recommend` was asked."""
    found: list[dict[str, Any]] = []

    def answer(pipe: Any, **limits: Any) -> Any:
        found.append({"pipe": type(pipe).__name__, **limits})
        return recommendations.Recommendation("fast", ROW, "because it was measured", (ROW,))

    monkeypatch.setattr(recommendations, "recommend", answer)
    return found


def test_recommend(shell: Shell, source: str, asked: list[dict[str, Any]]) -> None:
    options = ("--pipeline", source, "--speedup", "2", "--max-lpips", "0.1", "--min-psnr", "30")
    text = shell.ok("recommend", *options, "--reports", "a.json", "b.json")
    assert text.startswith("fast\nbecause it was measured\n\n| name | full steps |")
    assert "| fast | 2 / 4 | 2.50× | 40.00 ± 1.00 | 3 |" in text
    none = {"max_st_lpips": None, "min_ssim": None}
    limits = {"speedup": 2.0, "max_lpips": 0.1, "min_psnr": 30.0, **none}
    assert asked == [{"pipe": "WanPipeline", **limits, "reports": [Path("a.json"), Path("b.json")]}]
    found = json.loads(shell.ok("recommend", *options, "--json"))
    assert (found["preset"], found["why"], found["front"][0]["name"]) == ("fast", "because it was measured", "fast")


def test_no_limit_is_refused(shell: Shell, source: str) -> None:
    assert "recommend was given no limit" in shell.fails("recommend", "--pipeline", source)
