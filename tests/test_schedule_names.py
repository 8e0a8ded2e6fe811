"""The names of shipped schedules: what they resolve to, and that they open nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_accel import schedule as schedule_module
from dit_accel.configs import LeMiCaConfig
from dit_accel.errors import ScheduleError
from dit_accel.schedule import CacheSchedule

from .conftest import document


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of profiles with one schedule, and a valid schedule outside of it."""
    root = tmp_path / "package"
    (root / "digits-wan").mkdir(parents=True)
    (root / "jobs").mkdir()
    for path in (
        root / "digits-wan" / "lemica-fast.json",
        root / "digits-wan" / "50-steps.graph.json",
        root / "jobs" / "not-a-model.json",
        tmp_path / "outside" / "secret.json",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(document(), encoding="utf-8")
    monkeypatch.setattr(schedule_module, "files", lambda package: root)
    monkeypatch.chdir(root)
    return root


def test_shipped_names(shipped: Path) -> None:
    assert schedule_module.shipped_schedules() == ["digits-wan/lemica-fast"]
    expected = CacheSchedule(10, (0, 4, 9), {"name": "mine"})
    assert CacheSchedule.resolve("digits-wan/lemica-fast") == expected
    assert LeMiCaConfig("digits-wan/lemica-fast").cache_schedule == expected
    assert CacheSchedule.resolve(expected) is expected
    assert CacheSchedule.resolve(Path("../outside/secret.json")) == expected  # a path is the user's own choice
    assert CacheSchedule.resolve("../outside/secret.json") == expected


def test_an_unknown_name_is_met_with_a_suggestion(shipped: Path) -> None:
    with pytest.raises(ScheduleError) as caught:
        CacheSchedule.resolve("digits-wan/lemica-fst")
    for words in ("'digits-wan/lemica-fst'", "Did you mean 'digits-wan/lemica-fast'?", "ends in .json"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret",
        "digits-wan/../../outside/secret",
        "a/../../etc",
        "../package/digits-wan/lemica-fast",
        "digits-wan//lemica-fast",
        "./digits-wan/lemica-fast",
        "digits-wan/lemica-fast\0",
        "digits-wan/lemica-fast\n",
        "Digits-Wan/lemica-fast",
        "jobs/not-a-model",
        "digits-wan/50-steps.graph",
        "digits-wan\\lemica-fast",
        "/etc/hostname",
        "",
        ".",
    ],
)
def test_a_name_opens_nothing_but_what_ships(shipped: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, *_: object, **__: object) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(Path, "read_text", read)
    with pytest.raises(ScheduleError, match="No shipped schedule is called"):
        CacheSchedule.resolve(name)


def test_other_types_are_no_schedules() -> None:
    with pytest.raises(ScheduleError, match="a name, a path or a CacheSchedule, got int"):
        CacheSchedule.resolve(3)
