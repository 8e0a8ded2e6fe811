"""`measure_speed`: order, pairs, figures, rows. On a tiny pipeline; that times are right is the clock's test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel import DBCacheConfig, LeMiCaConfig, timed_run
from dit_accel.bench import measure_speed
from dit_accel.errors import ConfigError
from dit_accel.rows import Row, save_rows
from dit_accel.schedule import CacheSchedule

from .conftest import attributes, run_tiny, tiny_inputs, tiny_pipeline

HALF = LeMiCaConfig(CacheSchedule(4, (0, 2)))
INPUTS = {"num_inference_steps": 4, **tiny_inputs()}


class Clock:
    """In place of `DenoiseClock`: the runs take the seconds that are given, one after the other."""

    def __init__(self, seconds: list[float]) -> None:
        self._all = iter(seconds)

    def __call__(self, *_: Any) -> Clock:
        return self

    def __enter__(self) -> Clock:
        self.seconds = next(self._all)
        return self

    def __exit__(self, *_: object) -> None:
        pass


def measure(monkeypatch: pytest.MonkeyPatch, seconds: list[float], accelerations: Any, **how: Any) -> list[Row]:
    monkeypatch.setattr(timed_run, "DenoiseClock", Clock(seconds))
    return list(measure_speed(tiny_pipeline(), accelerations, "a red seven", progress=False, **how, **INPUTS))


def test_ratios_are_of_the_runs_of_one_round_after_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # Round by round: full, accelerated. The machine gets slower.
    rows = measure(monkeypatch, [99, 1, 8, 4, 20, 5, 60, 20], {"half": HALF}, repeats=3)
    assert [row.subject for row in rows] == ["baseline", "half"]
    assert rows[0].figures == {"seconds": 20}
    figures = rows[1].figures
    assert (figures["seconds"], rows[1].ratio) == (5, 3)  # of 2, 4 and 3
    assert figures["ratio_p20"] == pytest.approx(2.4) and figures["ratio_p80"] == pytest.approx(3.6)
    assert rows[1].budget == {"computed_steps": 2, "num_steps": 4} and figures["cache_bytes_peak"] > 0
    assert rows[1].dtype == "float32" and rows[1].pipeline == type(tiny_pipeline()).__name__
    assert rows[1].shapes == {name: INPUTS[name] for name in ("height", "width", "num_frames")}
    assert "peak_memory_bytes" not in figures, "not measured on a CPU"


def test_each_round_runs_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    never = DBCacheConfig(residual_diff_threshold=0)
    rows = measure(monkeypatch, [9, 9, 9, 12, 6, 3], {"half": HALF, "never": (never,)}, repeats=1, seed=3)
    assert [row.ratio for row in rows] == [None, 2, 4]
    assert rows[2].budget["computed_steps"] == 4
    assert rows[1].setting["seed"] == 3 and rows[1].setting["repeats"] == 1 and rows[1].setting["height"] == 16


def test_by_the_real_clock_the_pipeline_is_left_as_it_was() -> None:
    pipe = tiny_pipeline()
    run_tiny(pipe)
    before = attributes(pipe)
    rows = measure_speed(pipe, ["dbcache-fast"], "a red seven", repeats=1, progress=False, **INPUTS)
    assert all(row.figures["seconds"] > 0 for row in rows) and attributes(pipe) == before


@pytest.mark.parametrize(
    ("accelerations", "how", "words"),
    [
        ([], {}, "Name at least one acceleration"),
        (["baseline"], {}, "none 'baseline'"),
        (["dbcache-fast"], {"repeats": 0}, "repeats must be an integer of at least 1, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(accelerations: list[str], how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        measure_speed(tiny_pipeline(), accelerations, "a red seven", **how, **INPUTS)


def test_rows_are_saved_with_where_and_when(tmp_path: Path) -> None:
    rows = [Row("bench", "half", setting={"seed": 0}, ratio=2.0)]
    save_rows(tmp_path / "rows.json", rows, hardware="a machine")
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [Row(**row) for row in found.pop("rows")] == rows
    assert set(found.pop("versions")) >= {"torch", "diffusers", "dit-accel"}
    assert found == {"schema_version": 2, "date": found["date"], "hardware": "a machine"} and len(found["date"]) == 10
    with pytest.raises(ConfigError, match="The rows cannot be written"):
        save_rows(tmp_path, rows, hardware="a machine")
