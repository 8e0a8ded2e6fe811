"""``dit-accel compare``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dit_accel.quality.records import QualityReport, QualityRow, QualitySample

from .shell import Shell


def save(path: Path, name: str, device: str, psnr: float) -> str:
    row = QualityRow(name, 2, 4, 2.0, 2, {"psnr": (psnr, 0.5)}, None, 0)
    samples = [QualitySample(name, "a", seed, 2, 4, 2.0 + seed, {"psnr": psnr + seed}, None, 0) for seed in (0, 1)]
    QualityReport((row,), {"device": device}, tuple(samples)).to_json(path)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [save(tmp_path / "a.json", "fast", "CPU", 30.0), save(tmp_path / "b.json", "fast", "GPU", 31.5)]


def test_compare(shell: Shell, files: list[str]) -> None:
    found = json.loads(shell.ok("compare", *files, "--json"))
    assert found["rows"][0]["figures"][1] == {
        "name": "psnr",
        "first": 30.5,
        "second": 32.0,
        "difference": 1.5,
        "standard_error": 0.0,
    }
    assert found["differing"] == {"device": ["CPU", "GPU"]} and found["first"] == files[0]
    text = shell.ok("compare", *files)
    assert "| fast | psnr | 30.50 | 32.00 | +1.50 ± 0.00 | 2 |" in text
    assert "| fast | speedup | 2.50× | 2.50× | 0.00× ± 0.00 | 2 |" in text
    assert "device differs. A: CPU. B: GPU" in text and "Only in" not in text


def test_compare_what_cannot_be(shell: Shell, files: list[str], tmp_path: Path) -> None:
    assert "There is no quality report file" in shell.fails("compare", files[0], str(tmp_path / "absent.json"))
    other = save(tmp_path / "c.json", "slow", "CPU", 1.0)
    assert "have no row in common" in shell.fails("compare", files[0], other)
