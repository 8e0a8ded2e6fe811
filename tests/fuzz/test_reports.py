"""`QualityReport`: files of both versions that are nearly right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.errors import ConfigError
from dit_accel.quality.records import QualityReport, QualityRow, QualitySample
from tests.conftest import examples

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, TREE_EDITS, Edit, broken, encoded

ROW = QualityRow("lemica-fast", 12, 50, 3.5, 2, {"psnr": (31.0, 0.5), "ssim": (0.9, float("nan"))}, None, 1000, 2000)
SAMPLE = QualitySample(
    *("lemica-fast", "a red seven", 0, 12, 50, 3.4, {"psnr": 30.5, "ssim": float("nan")}, 0.5, 1000),
    frames={"psnr": (30.0, 31.0)},
    steps={"transformer": {"cond": "FRRF", "uncond": "FRPS-"}},
)
REPORT = QualityReport((ROW,), {"pipeline": "WanPipeline", "seeds": [0]}, (SAMPLE, SAMPLE))
SECOND = json.dumps(REPORT.to_dict())


def _first() -> str:
    """The same as version 1 wrote it."""
    document: dict[str, Any] = json.loads(SECOND)
    for entry in (*document["rows"], *document["samples"]):
        for key in ("peak_memory_bytes", "frames", "steps"):
            entry.pop(key, None)
    return json.dumps({**document, "version": 1})


def check(report: QualityReport | None, path: Path) -> None:
    """It is written again, read back as it is, and shown."""
    if report is None:
        return
    assert report.to_markdown().count("\n") >= 2 + len(report.rows)
    report.to_json(path)
    assert QualityReport.load(path).to_dict() == report.to_dict()


@given(st.sampled_from([_first(), SECOND]), TREE_EDITS, TEXT_EDITS, NUMBERS)
@examples(650)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, edits: list[Edit], text_edits: list[Edit], choice: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.report.json"
    path.write_bytes(encoded(broken(text, edits, text_edits if choice % 4 == 0 else []), choice))
    found = outcome(lambda: QualityReport.load(path), kind=ConfigError, says=str(path))
    check(found, path.with_suffix(".again"))
