"""Recommendations: the preset that was measured to meet the limits, or an error; never a guess."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dit_accel import QualityReport, available_presets, enable_acceleration, load_demo_pipeline
from dit_accel.errors import ConfigError, DitAccelError, NoRecommendationError
from dit_accel.quality.records import QualityRow
from dit_accel.recommend import Recommendation, recommend

from .conftest import attributes, tiny_pipeline

CONDITIONS = {"pipeline": "WanPipeline", "device": "a card", "date": "2026-01-02T03:04:05", "inputs": {"height": 16}}
#          speed-up, PSNR, ST-LPIPS
ROWS = {
    "dbcache-slow": (1.5, 50.0, 0.01),
    "dbcache-medium": (2.0, 40.0, 0.02),
    "dbcache-fast": (3.0, 30.0, 0.08),
    "svg2": (1.9, 39.0, 0.03),  # dominated by dbcache-medium
    "dbcache-fast+svg2": (4.0, 25.0, 0.2),
    "uniform-25": (9.0, 90.0, 0.0),  # the best of all, and no preset
}


def row(name: str, speedup: float, **means: float) -> QualityRow:
    metrics = {metric: (mean, mean / 10) for metric, mean in means.items()}
    return QualityRow(name, 4, 10, speedup, 8, metrics, None, 0)


def measured(names: Any = ROWS) -> list[QualityRow]:
    return [row(name, ROWS[name][0], psnr=ROWS[name][1], st_lpips=ROWS[name][2]) for name in names]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return tiny_pipeline()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes a report; returns its path."""

    def save(rows: list[QualityRow], name: str = "mine", **provenance: Any) -> Path:
        path = tmp_path / f"{name}.json"
        QualityReport(tuple(rows), {**CONDITIONS, **provenance}).to_json(path)
        return path

    return save


@pytest.mark.parametrize(
    ("limits", "preset"),
    [
        ({"speedup": 1}, "dbcache-slow"),
        ({"speedup": 1.5}, "dbcache-slow"),  # a limit may be just met
        ({"speedup": 1.6}, "dbcache-medium"),
        ({"speedup": 2.5}, "dbcache-fast"),
        ({"speedup": 3.5}, "dbcache-fast+svg2"),
        ({"min_psnr": 35}, "dbcache-medium"),
        ({"max_st_lpips": 0.08}, "dbcache-fast"),
        ({"max_st_lpips": 0.08, "min_psnr": 45}, "dbcache-slow"),
        ({"min_psnr": 28, "speedup": 1.6}, "dbcache-medium"),  # with both, the best
        ({"min_psnr": 0}, "dbcache-fast+svg2"),
    ],
)
def test_the_preset_that_was_measured_to_meet_the_limits(tiny, saved, limits, preset):
    found = recommend(tiny, reports=[saved(measured())], **limits)
    assert found.preset == found.row.name == preset
    assert (found.row.speedup, found.row.metrics["psnr"][0]) == ROWS[preset][:2]


def test_why_and_front_tell_all_that_a_choice_rests_on(tiny, saved):
    found = recommend(tiny, speedup=1.6, reports=[saved(measured())])
    assert [row.name for row in found.front] == ["dbcache-slow", "dbcache-medium", "dbcache-fast", "dbcache-fast+svg2"]
    assert found.why == (
        "dbcache-medium is the best by st_lpips of 4 presets, of 5 measured, with speed-up ≥ 1.6. Measured: 2.00× on "
        "a card, 2026-01-02, over 8 videos: st_lpips 0.02 ± 0.002, psnr 40 ± 4 dB; 4 of 10 steps computed. "
        "Next faster: dbcache-fast: 3.00×, st_lpips 0.08 ± 0.008. Next better: dbcache-slow: 1.50×, st_lpips 0.01 ± "
        "0.001."
    )
    assert (
        "Next better: dbcache-medium" in recommend(tiny, speedup=2.5, reports=[saved(measured())]).why
    )  # the nearest
    assert "Next better" not in recommend(tiny, speedup=1, reports=[saved(measured())]).why
    assert "Next faster" not in recommend(tiny, speedup=3.5, reports=[saved(measured())]).why


def test_to_dict_is_json(tiny, saved):
    one_video = row("svg2", 2.0, psnr=30.0)
    one_video.metrics["psnr"] = (30.0, math.nan)
    found = recommend(tiny, speedup=2, reports=[saved([one_video])])
    assert "psnr 30 dB;" in found.why
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["preset"] == "svg2" and document["row"]["metrics"]["psnr"] == [30.0, None]
    assert [entry["name"] for entry in document["front"]] == ["svg2"]


def test_quality_is_the_first_metric_that_all_rows_have(tiny, saved):
    rows = [row("dbcache-slow", 2, ssim=0.9, psnr=30, lpips=0.1), row("dbcache-fast", 2, ssim=0.8, psnr=40)]
    assert recommend(tiny, speedup=2, reports=[saved(rows)]).preset == "dbcache-fast"  # by PSNR: one has no LPIPS
    rows[0].metrics["psnr"] = (math.nan, math.nan)
    assert (
        recommend(tiny, speedup=2, reports=[saved(rows)]).preset == "dbcache-slow"
    )  # by SSIM: one has no PSNR either
    assert recommend(tiny, max_lpips=0.5, reports=[saved(rows)]).preset == "dbcache-slow"  # what lacks it misses it
    rows[0].metrics["ssim"] = (math.nan, math.nan)
    with pytest.raises(
        NoRecommendationError, match="dbcache-slow, dbcache-fast were not all measured in one of lpips"
    ):
        recommend(tiny, speedup=2, reports=[saved(rows)])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"speedup": 5}, r"has speed-up ≥ 5\. The nearest is dbcache-fast\+svg2: 4\.00×\. Relax"),
        ({"min_psnr": 60}, r"has psnr ≥ 60\. The nearest is dbcache-slow: 1\.50×, psnr 50 ± 5 dB\."),
        ({"max_st_lpips": 0}, r"st_lpips ≤ 0\. The nearest is dbcache-slow"),
        (
            {"speedup": 3.9, "min_psnr": 26},
            r"speed-up ≥ 3\.9 and psnr ≥ 26\. The nearest is dbcache-fast\+svg2.*psnr 25 ",
        ),
        ({"max_lpips": 0.1}, "lpips was not measured.*; measured were st_lpips, psnr. Set a limit for one of these"),
        ({"min_ssim": 0.9, "speedup": 2}, "ssim was not measured"),
    ],
)
def test_limits_that_nothing_measured_meets(tiny, saved, limits, message):
    with pytest.raises(NoRecommendationError, match=message) as caught:
        recommend(tiny, reports=[saved(measured())], **limits)
    assert isinstance(caught.value, DitAccelError)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "no limit. Give at least one of speedup, max_lpips"),
        ({"speedup": 0.9}, "speedup must be a finite number of at least 1.*got 0.9"),
        ({"speedup": math.inf}, "speedup must be a finite number"),
        ({"speedup": True}, "speedup must be a finite number"),
        ({"speedup": "2"}, "speedup must be a finite number.*got '2'"),
        ({"max_lpips": -0.1}, "max_lpips must be a finite number of at least 0"),
        ({"max_st_lpips": math.nan}, "max_st_lpips must be"),
        ({"min_psnr": -1}, "min_psnr must be"),
        ({"min_ssim": 1.1}, r"min_ssim must be a finite number in \[-1.0, 1.0\]"),
    ],
)
def test_limits_out_of_range(tiny, limits, message):
    with pytest.raises(ConfigError, match=message):
        recommend(tiny, **limits)


def test_a_model_that_was_never_measured(tiny, saved):
    with pytest.raises(
        NoRecommendationError, match=r"No measured report ships for this WanPipeline.*'dit-accel report'"
    ):
        recommend(tiny, speedup=2)
    with pytest.raises(
        NoRecommendationError, match=r"No row.*is a preset of this WanPipeline: rows are uniform-25; presets"
    ):
        recommend(tiny, speedup=2, reports=[saved(measured(["uniform-25"]))])
    with pytest.raises(NoRecommendationError, match="No row"):
        recommend(tiny, speedup=2, reports=[saved([row("svg2", math.nan, psnr=30.0)])])


def test_a_report_of_another_pipeline_or_model_is_refused(tiny, saved):
    other = saved(measured(), pipeline="LTXPipeline")
    with pytest.raises(
        ConfigError, match=r"mine\.json is a report of a model in a LTXPipeline, and this is .* WanPipeline"
    ):
        recommend(tiny, speedup=2, reports=[other])
    with pytest.raises(ConfigError, match=r"is a report of digits-wan in a WanPipeline, and this is"):
        recommend(tiny, speedup=2, reports=[saved(measured(), model="digits-wan")])
    assert recommend(tiny, speedup=2, reports=[saved(measured(), model="a copy")]).preset == "dbcache-medium"


def test_one_report_is_given_in_a_list(tiny, saved):
    with pytest.raises(ConfigError, match=r"reports must be a list of paths, got .*\. Put a single one"):
        recommend(tiny, speedup=2, reports=saved(measured()))


def test_what_was_measured_elsewhere_is_not_compared(tiny, saved):
    """Only what was measured as the last report was; and there, a preset counts as it was measured last."""
    elsewhere = saved(measured(), "elsewhere", device="another card")
    other_size = saved(measured(), "other-size", inputs={"height": 32})
    before = saved(measured(["dbcache-slow", "dbcache-fast"]), "before")
    again = saved([row("dbcache-slow", 2.5, psnr=45, st_lpips=0.02)], "again")
    found = recommend(tiny, speedup=1, reports=[elsewhere, other_size, before, again])
    assert [(row.name, row.speedup) for row in found.front] == [("dbcache-slow", 2.5), ("dbcache-fast", 3.0)]


def test_the_embedded_model_ships_its_report():
    pipe = load_demo_pipeline()
    (path,) = Path("offline_profiles/digits-wan").glob("*.report.json")
    report = QualityReport.load(path)
    presets = available_presets(pipe)
    rows = [row for row in report.rows if row.name in presets]
    assert len(rows) == len(presets), "every preset was measured"
    fast = [row for row in rows if row.speedup >= 2]
    assert recommend(pipe, speedup=2).row == min(fast, key=lambda row: row.metrics["st_lpips"][0])
    nearest = max(rows, key=lambda row: row.metrics["psnr"][0])
    assert recommend(pipe, min_psnr=nearest.metrics["psnr"][0]).row == nearest
    found = recommend(pipe, min_psnr=0.0)
    assert found.row == max(rows, key=lambda row: row.speedup) and report.provenance["device"] in found.why


def test_enabling_with_limits(saved):
    pipe = load_demo_pipeline()
    before = attributes(pipe)
    with enable_acceleration(pipe, speedup=2, min_psnr=1) as acceleration:
        found = acceleration.recommendation
        assert isinstance(found, Recommendation) and found.row.speedup >= 2
        configs = acceleration.configs
    with enable_acceleration(pipe, found.preset) as named:
        assert named.configs == configs and named.recommendation is None
    for wanted, overrides in ((("lemica-fast",), {}), ((), {"forecast": "hold"})):
        with pytest.raises(ConfigError, match=r"Limits \(speedup\) choose.*was given besides. Leave that out"):
            enable_acceleration(pipe, *wanted, speedup=2, **overrides)
    with pytest.raises(NoRecommendationError, match="nearest"):
        enable_acceleration(pipe, speedup=1e6)
    assert attributes(pipe) == before
