"""What the benchmarks conclude from measurements: on cases that are known by hand. Nothing is timed."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a file of benchmarks/ by its stem."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def measured(subject: str, psnr: float, ratio: float, **setting: Any) -> dict[str, Any]:
    row = {"subject": subject, "ratio": ratio, "quality": {"psnr_db": psnr}, "setting": setting}
    return {**row, "budget": {"target_steps": 20}}


def test_at_equal_quality_the_fastest_preset_that_is_as_near_counts(benchmark: Callable[[str], Any]) -> None:
    compare = benchmark("equal_quality").compare
    presets = [measured("dit_accel lemica", psnr, ratio, preset=f"at {psnr}") for psnr, ratio in ((60, 2), (50, 3))]
    row = compare(measured("rival", 50, 1.5), presets)
    assert (row.setting["preset"], row.ratio) == ("at 50", 2)
    row = compare(measured("rival", 50.1, 1.6), presets)
    assert (row.setting["preset"], row.ratio) == ("at 60", 1.25)
    row = compare(measured("rival", 61, 1.0), presets)
    assert row.setting == {"preset": "at 60", "note": "no preset is as near; this one is the nearest"}


class Steps:
    """A rival whose computed steps are a function of the threshold, in place of runs."""

    def __init__(self, steps: Callable[[float], float]) -> None:
        self.steps, self.tried = steps, 0

    def __call__(self, search: Any, threshold: float) -> float:
        threshold = float(f"{threshold:.4g}")
        if threshold not in search.known:
            self.tried += 1
            search.known[threshold] = self.steps(threshold)
        return float(search.known[threshold])


@pytest.mark.parametrize("start", [None, 0.01, 0.6, 30.0])
@pytest.mark.parametrize("budget", [25, 20, 17, 14, 10])
def test_a_tuned_threshold_computes_at_least_the_budget_and_hardly_more(
    benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, budget: int, start: float | None
) -> None:
    tuning = benchmark("tune_rivals")
    steps = Steps(lambda threshold: max(4.0, 50 / (1 + 10 * threshold)))
    monkeypatch.setattr(tuning.Search, "steps_at", lambda self, threshold: steps(self, threshold))
    search = tuning.Search(None, SimpleNamespace(span=(0.05, 0.2)))
    found = search.threshold_for(budget, start)
    assert budget <= steps.steps(found) <= budget + 1 and steps.tried < 25


def test_a_rival_that_cannot_compute_so_few_steps_comes_as_near_as_it_can(
    benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = benchmark("tune_rivals")
    steps = Steps(lambda threshold: 50.0 if threshold < 0.3 else 20.0)
    monkeypatch.setattr(tuning.Search, "steps_at", lambda self, threshold: steps(self, threshold))
    row = tuning.Search(None, SimpleNamespace(name="rival", span=(0.05, 0.2), setting={})).row(10, None)
    assert row.budget["computed_steps"] == 20 and row.setting["note"] == "computes 20 steps or more"


def test_rivals_compute_no_fewer_steps_than_the_budget(benchmark: Callable[[str], Any]) -> None:
    rivals = benchmark("rivals")
    for budget in (25, 20, 17, 14, 10):
        assert min(steps for steps, mask in rivals.MASKS.items() if mask == rivals.mask_for(budget)) >= budget
        schedule = rivals.CacheSchedule.resolve(rivals.published_list(budget))
        assert (schedule.budget, schedule.num_steps) == (budget, rivals.NUM_STEPS)
        interval, first = rivals.taylorseer_knobs(budget)
        computed = [step for step in range(50) if step < first or (step - first - 1) % interval == 0]
        assert budget <= len(computed) <= budget + 2


def test_memory_is_that_of_storages(benchmark: Callable[[str], Any]) -> None:
    alive_bytes = benchmark("cache_memory").alive_bytes
    gc.collect()
    before = alive_bytes()
    kept = torch.zeros(1000)
    views = [kept[:10], kept.view(10, 100)]
    assert alive_bytes() - before == 4000 and len(views) == 2
    del kept, views
    assert alive_bytes() == before


def test_everything_that_make_bench_runs_writes_a_result(benchmark: Callable[[str], Any]) -> None:
    bench = benchmark("bench")
    assert [each.name for line in bench.chosen(["step_quality"]) for each in line] == ["step_quality"]
    for each in (each for line in bench.chosen(None) for each in line):
        assert '"--out"' in (BENCHMARKS / f"{each.name}.py").read_text(encoding="utf-8")
