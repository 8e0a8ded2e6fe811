"""What ``dit-accel demo`` runs and writes, on short runs of the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dit_accel import available_presets, showcase
from dit_accel.cli import main
from dit_accel.configs import LeMiCaConfig


def test_every_preset_runs_and_lemica_meets_a_uniform_skip_of_its_budget() -> None:
    pipe = showcase.load_demo_pipeline()
    compared = showcase.compared(pipe, with_sparse=True)
    assert sorted(name for name in compared if not name.startswith("uniform")) == available_presets(pipe)
    assert set(compared) - set(showcase.compared(pipe)) == {"svg2", "svg2-turbo"}
    names = list(compared)
    for budget, preset in ((25, "slow"), (20, "medium"), (17, "fast"), (14, "ultra"), (10, "turbo")):
        uniform = compared[f"uniform-{budget}"]
        assert isinstance(uniform, LeMiCaConfig) and uniform.cache_schedule.budget == budget
        assert names.index(f"uniform-{budget}") == names.index(f"lemica-{preset}") + 1


def test_demo_writes_page_table_videos_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = showcase.compared
    chosen = ("lemica-ultra", "uniform-14")
    monkeypatch.setattr(
        showcase, "compared", lambda pipe, **how: {name: everything(pipe, **how)[name] for name in chosen}
    )
    out = tmp_path / "out"
    assert main(["demo", "--prompts", "1", "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["computed_steps"] for row in rows] == [14, 14]
    assert len(json.loads((out / "report.json").read_text())["rows"]) == 2
    assert len(list((out / "videos").glob("*.mp4"))) == 1 + 2 * 2
    assert "uniform-14" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert page.count("data:") < page.count("<script") and "uniform-14" in page
