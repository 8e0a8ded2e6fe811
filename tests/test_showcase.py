"""What ``dit-accel demo`` writes, on short runs of the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from dit_accel import showcase
from dit_accel.cli import main
from dit_accel.schedule import CacheSchedule


def test_every_preset_meets_a_uniform_skip_of_its_budget() -> None:
    compared = showcase.compared_schedules(showcase.load_demo_pipeline())
    budgets = [config.cache_schedule.budget for config in compared.values()]
    assert budgets == [25, 25, 20, 20, 17, 17, 14, 14]
    assert [name.startswith("uniform") for name in compared] == [False, True] * 4


def test_demo_writes_table_videos_picture_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_of_them = showcase.compared_schedules
    monkeypatch.setattr(showcase, "compared_schedules", lambda pipe: dict(list(all_of_them(pipe).items())[-2:]))
    assert main(["demo", "--prompts", "1", "--out", str(tmp_path / "out"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["computed_steps"] for row in rows] == [14, 14]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["rows"]) == 2
    video = next((tmp_path / "out" / "videos").glob("*.mp4"))
    frames = iio.imread(video)
    assert frames.shape == (9, 48 * showcase.VIDEO_SCALE, 3 * 48 * showcase.VIDEO_SCALE, 3)
    assert (tmp_path / "out" / "schedules.png").stat().st_size > 1000
    assert "uniform-14" in (tmp_path / "out" / "report.md").read_text()


def test_strip_picture_marks_the_computed_steps(tmp_path: Path) -> None:
    path = tmp_path / "strips.png"
    showcase.write_schedule_strips(path, {"none reused": CacheSchedule(4, (0, 1, 2, 3))})
    dark = (iio.imread(path)[..., :3].sum(-1) < 400).sum()
    showcase.write_schedule_strips(path, {"most reused": CacheSchedule(4, (0,))})
    assert (iio.imread(path)[..., :3].sum(-1) < 400).sum() < dark


def test_side_by_side_keeps_the_order(tmp_path: Path) -> None:
    videos = [torch.zeros(3, 3, 16, 16), torch.ones(3, 3, 16, 16)]
    showcase.write_side_by_side(tmp_path / "pair.mp4", videos)
    frames = iio.imread(tmp_path / "pair.mp4").astype(float)
    assert frames[..., :64, :].mean() < 20 and frames[..., 64:, :].mean() > 235
