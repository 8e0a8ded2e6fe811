"""The report page as text: what is in it, what is not, and that nothing in a report can break out of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dit_accel.errors import ConfigError, MissingPackageError
from dit_accel.quality import QualityReport, charts, page
from dit_accel.quality.charts import page_charts
from dit_accel.quality.page import render

from .conftest import PROMPTS


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', text, re.DOTALL)
    parsed: dict[str, Any] = json.loads(found)
    return parsed


def test_the_page_needs_nothing_from_outside(report: QualityReport, tmp_path: Path) -> None:
    report.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text.replace("xlink:", ""))
    assert "@import" not in text and "url(http" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_table_has_every_figure(report: QualityReport) -> None:
    text = render(report)
    for words in (
        "2 / 4",
        "1.50×",
        "30.00 ± 1.00",
        "0.00100 ± 0.00020",
        "3.0 GiB",
        "1.5 KiB",
        "0 B",
        "0.250",
        "no weights",
    ):
        assert words in text, words


def test_videos_come_worst_first_and_each_once(report: QualityReport) -> None:
    text = render(report)
    shown = data_of(text)["rows"]
    assert [entry["prompt"] for entry in shown["fast"]] == [PROMPTS[1], PROMPTS[0]]
    assert [entry["prompt"] for entry in shown["slow"]] == list(PROMPTS)
    assert text.count('<script type="text/plain"') == 2 * (1 + 2 * 2)


def test_prompts_and_names_cannot_break_out(report: QualityReport) -> None:
    rows = (replace(report.rows[0], name="<img src=x onerror=alert(1)>"), report.rows[1])
    text = render(replace(report, rows=rows))
    assert "<script>throw 1" not in text and "<img" not in text and "tiny <model>" not in text
    assert PROMPTS[0] in [entry["prompt"] for entry in data_of(text)["rows"]["slow"]]


def test_without_videos_the_page_says_so(report: QualityReport) -> None:
    text = render(replace(report, videos=None))
    assert "No videos were kept" in text and "<script" not in text and "</svg>" in text


def test_a_missing_video_is_an_error(report: QualityReport, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no video file at .*prompt00\d-seed7-00.mp4"):
        replace(report, videos=tmp_path).to_html(tmp_path / "page.html")
    with pytest.raises(ConfigError, match="The report page cannot be written"):
        report.to_html(tmp_path / "no" / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_said(report: QualityReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"dit-accel\[report\]"):
        render(report)


def test_reports_of_before_have_a_page_too(report: QualityReport) -> None:
    old = tuple(replace(sample, frames={}, steps={}) for sample in report.samples)
    text = render(replace(report, samples=old))
    assert 'id="steps"' not in text and 'id="frames"' not in text and 'id="front"' in text
    assert "</html>" in render(QualityReport(()))


def test_charts_take_the_colours_of_the_page(report: QualityReport) -> None:
    charts = page_charts(report)
    everything = "".join([*charts["front"].values(), *charts["frames"].values(), charts["steps"]])
    assert set(charts["front"]) == set(charts["frames"]) == {"psnr", "lpips"}
    assert not re.findall(r"#00f[cde]", everything)
    assert "var(--series-1)" in everything and "var(--kind-3)" in everything and "<style" not in everything
    ids = re.findall(r' id="([^"]+)"', charts["steps"])
    assert all(f"#{name}" in charts["steps"] for name in ids)


def test_strips_join_branches_that_did_the_same(report: QualityReport) -> None:
    steps = page_charts(report)["steps"]
    assert "fast  transformer cond, uncond" in steps and "slow  transformer cond" in steps
    differing = replace(report.samples[0], steps={"transformer": {"cond": "FRRF", "uncond": "FRFF"}})
    steps = page_charts(replace(report, samples=(differing, *report.samples[1:])))["steps"]
    assert "fast  transformer cond<" in steps and "fast  transformer uncond<" in steps


def test_where_videos_differ_a_strip_has_their_shares(report: QualityReport) -> None:
    (lane,) = charts._lanes([replace(report.samples[0], steps={"t": {"c": steps}}) for steps in ("FR", "FF")]).values()
    assert [(step["F"], step["R"]) for step in lane] == [(1, 0), (0.5, 0.5)]
