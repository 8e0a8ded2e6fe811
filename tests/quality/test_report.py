from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dit_accel.errors import ConfigError
from dit_accel.quality import QualityReport, QualityRow, QualitySample
from dit_accel.quality.records import json_value


def report(**changes: Any) -> QualityReport:
    sample = QualitySample(
        "fast",
        "a red seven",
        3,
        2,
        4,
        3.5,
        {"psnr": 30.0, "psnr_moving": math.nan},
        None,
        1024,
        4096,
        {"psnr": (29.0, 31.0), "psnr_moving": (math.nan, math.nan)},
        {"transformer": {"cond": "FRRF"}},
    )
    dense = QualityRow("fast", 11, 50, 3.5, 2, {"psnr": (30.0, 0.5), "psnr_moving": (math.nan, math.nan)}, None, 1024)
    sparse = QualityRow("a|b", 11, 50, 4.0, 1, {"psnr": (31.256, math.nan), "lpips": (0.01, 0.002)}, 0.25, 2048)
    values: dict[str, Any] = {"rows": (dense, sparse), "provenance": {"seeds": [3]}, "samples": (sample,), **changes}
    return QualityReport(**values)


def saved(path: Path, **changes: Any) -> Path:
    """The report's file with some top-level keys replaced."""
    path.write_text(json.dumps({**report().to_dict(), **changes}), encoding="utf-8")
    return path


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report().to_json(path)
    loaded = QualityReport.load(path)
    assert loaded.to_dict() == report().to_dict()
    assert loaded.rows[0].metrics["psnr"] == (30.0, 0.5)
    assert loaded.samples[0].prompt == "a red seven"
    assert loaded.provenance == {"seeds": [3]}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_nan_is_null_in_the_file_and_nan_again_when_loaded(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report(provenance={"worst": [math.nan, {"x": math.inf}]}).to_json(path)
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    document = json.loads(text)
    assert document["schema"] == "dit_accel.quality_report" and document["version"] == 2
    assert document["rows"][0]["metrics"]["psnr_moving"] == [None, None]
    assert document["provenance"] == {"worst": [None, {"x": None}]}
    loaded = QualityReport.load(path)
    assert math.isnan(loaded.rows[0].metrics["psnr_moving"][0])
    assert math.isnan(loaded.samples[0].metrics["psnr_moving"])


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    document = report().to_dict()
    for record, new in ((document["rows"], 1), (document["samples"], 3)):
        for entry in record:
            for key in list(entry)[-new:]:
                del entry[key]
    (tmp_path / "old.json").write_text(json.dumps({**document, "version": 1}), encoding="utf-8")
    old = QualityReport.load(tmp_path / "old.json", videos=tmp_path)
    assert old.rows[0].metrics == report().rows[0].metrics or math.isnan(old.rows[0].metrics["psnr_moving"][0])
    assert old.samples[0].frames == {} and old.samples[0].steps == {} and old.rows[0].peak_memory_bytes is None
    assert old.videos == tmp_path


def test_objects_that_json_lacks_become_their_type() -> None:
    assert json_value({1: (object(), Path("x"), True, None)}) == {"1": ["<object>", json_value(Path("x")), True, None]}


def test_markdown_table() -> None:
    assert report().to_markdown().splitlines() == [
        "| name | full steps | speed-up | psnr (dB) | psnr_moving (dB) | lpips | density | videos |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| fast | 11 / 50 | 3.50× | 30.00 ± 0.50 | – | – | – | 2 |",
        "| a\\|b | 11 / 50 | 4.00× | 31.26 | – | 0.01000 ± 0.00200 | 0.250 | 1 |",
    ]


def test_markdown_without_sparse_rows_has_no_density() -> None:
    assert "density" not in report(rows=report().rows[:1]).to_markdown()


ROW, SAMPLE = report().to_dict()["rows"][0], report().to_dict()["samples"][0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "dit_accel.cache_schedule"}, "is not a dit_accel.quality_report file"),
        ({"version": 3}, "Update dit_accel"),
        ({"version": 1}, r"rows\[0\] must be an object with exactly the keys"),
        ({"extra": 1}, "unknown keys"),
        ({"rows": {}}, "rows must be a list"),
        ({"provenance": []}, "provenance must be a JSON object"),
        ({"rows": [{"name": "x"}]}, r"rows\[0\] must be an object with exactly the keys"),
        ({"rows": [{**ROW, "metrics": []}]}, r"rows\[0\] is malformed: metrics must be an object"),
        ({"rows": [ROW, {**ROW, "metrics": {"psnr": 30.0}}]}, r"rows\[1\] is malformed: psnr must be \[mean"),
        ({"rows": [{**ROW, "metrics": {"psnr": ["30", 1]}}]}, "psnr must be a number or null"),
        ({"rows": [{**ROW, "computed_steps": 1.5}]}, "computed_steps must be a whole number"),
        ({"rows": [{**ROW, "name": 3}]}, "name must be text"),
        ({"rows": [{**ROW, "speedup": True}]}, "speedup must be a number"),
        ({"samples": [ROW]}, r"samples\[0\] must be an object"),
        ({"samples": [{**SAMPLE, "frames": {"psnr": 3}}]}, "psnr must be a list of numbers"),
        ({"samples": [{**SAMPLE, "steps": {"transformer": "FR"}}]}, "transformer must be an object"),
        ({"samples": [{**SAMPLE, "steps": {"transformer": {"cond": 3}}}]}, "cond must be text"),
        ({"samples": [{**SAMPLE, "peak_memory_bytes": 1.5}]}, "peak_memory_bytes must be a whole number"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        QualityReport.load(saved(tmp_path / "report.json", **changes))


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no quality report file"):
        QualityReport.load(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid JSON"):
        QualityReport.load(tmp_path / "broken.json")
