"""`evaluate`: its arithmetic and order with scripted runs, and once for real on the tiny pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dit_accel import timed_run
from dit_accel.configs import LeMiCaConfig
from dit_accel.errors import ConfigError, DitAccelError, MetricUnavailableError, UnknownPresetError
from dit_accel.pipelines import wan
from dit_accel.quality import QualityReport, evaluate, metrics, provenance
from dit_accel.quality import report as report_module
from dit_accel.quality.report import mean_and_error
from dit_accel.quality.videos import video_file
from dit_accel.schedule import CacheSchedule

from ..conftest import tiny_inputs


@dataclass
class Lab:
    """A pipeline whose frames, seconds and statistics are scripted; ``log`` holds what was done, in order."""

    log: list[tuple[Any, ...]] = field(default_factory=list)
    active: str = "baseline"
    seconds: dict[str, float] = field(default_factory=lambda: {"baseline": 12.0, "half": 6.0, "third": 4.0})
    offset: Callable[[str, int], float] = lambda label, seed: 0.0 if label == "baseline" else 0.1
    videos: int = 1

    def __call__(
        self,
        *,
        prompt: str,
        generator: torch.Generator,
        output_type: str,
        num_inference_steps: int | None = None,
        **inputs: Any,
    ) -> Any:
        assert output_type == "np" and generator.device.type == "cpu"
        seed = generator.initial_seed()
        self.log.append((self.active, prompt, seed, num_inference_steps))
        value = 0.25 + self.offset(self.active, seed)
        return (np.full((self.videos, 2, 16, 12, 3), value, dtype=np.float32),)

    def enable(self, pipe: Lab, *what: str) -> Any:
        if what[0] not in self.seconds:
            raise UnknownPresetError(f"no preset {what[0]!r}")
        return Enabled(self, what[0])


class Enabled:
    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name

    def __enter__(self) -> Enabled:
        self.lab.active = self.name
        return self

    def __exit__(self, *exc: object) -> None:
        self.lab.active = "baseline"

    @property
    def stats(self) -> Any:
        assert self.lab.active == self.name, "statistics are read before the acceleration is taken off"
        steps = {"transformer": {"cond": [0, 1], "uncond": [0, 1]}, "transformer_2": {"cond": [5]}}
        density = 0.5 if self.name == "third" else None
        return SimpleNamespace(
            computed_steps=steps,
            reused_steps={"transformer": {"cond": [2, 3, 4, 5], "uncond": [2, 3, 4]}},
            partial_steps={"transformer": {"uncond": [5]}},
            sparse_steps={"transformer": {"cond": [1]}},
            num_steps=6,
            density=density,
            cache_bytes_peak=64,
        )


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = Lab()

    class Clock:
        def __init__(self, pipe: Lab, denoisers: tuple[str, ...]) -> None:
            self.seconds = lab.seconds[lab.active]

        def __enter__(self) -> Clock:
            return self

        def __exit__(self, *exc: object) -> None: ...

    monkeypatch.setattr(provenance, "model_id", lambda pipe: "lab")
    for module in (report_module, timed_run):
        monkeypatch.setattr(module, "enable_acceleration", lab.enable)
    monkeypatch.setattr(timed_run, "DenoiseClock", Clock)
    monkeypatch.setattr(timed_run, "find_spec", lambda pipe: SimpleNamespace(denoisers=("transformer",)))
    return lab


def run(lab: Lab, accelerations: Any = ("half", "third"), prompts: Any = ("p", "q"), **changes: Any) -> QualityReport:
    options = {"seeds": (0, 1), "metrics": ("psnr",), "progress": False, "num_inference_steps": 6, **changes}
    return evaluate(lab, accelerations, prompts, **options)


def test_order_is_baseline_then_each_acceleration_per_video(lab: Lab) -> None:
    run(lab)
    warmup, *runs = lab.log
    assert warmup == ("baseline", "p", 0, 2)
    assert runs == [
        (label, prompt, seed, 6) for prompt in "pq" for seed in (0, 1) for label in ("baseline", "half", "third")
    ]


def test_warmup_can_be_left_out_and_keeps_fixed_timesteps(lab: Lab) -> None:
    run(lab, warmup=False)
    assert len(lab.log) == 12
    lab.log.clear()
    run(lab, num_inference_steps=None, timesteps=[3, 2, 1])
    assert lab.log[0] == ("baseline", "p", 0, None)


def test_rows_by_hand(lab: Lab) -> None:
    lab.offset = lambda label, seed: 0.0 if label == "baseline" else (0.1, 0.01)[seed]
    half, third = run(lab, prompts=["p"]).rows
    assert (half.name, half.speedup, half.computed_steps, half.num_steps) == ("half", 2.0, 3, 6)
    assert (third.speedup, third.density, third.cache_bytes_peak, third.num_videos) == (3.0, 0.5, 64, 2)
    assert half.density is None
    mean, error = half.metrics["psnr"]  # 20 and 40 dB: deviation 14.14, over the root of 2
    assert mean == pytest.approx(30, abs=1e-3) and error == pytest.approx(10, abs=1e-3)


def test_speedup_is_the_median_of_the_pairs(lab: Lab) -> None:
    times = iter([2.0, 1.0, 20.0, 1.0, 3.0, 1.0])
    lab.seconds = type("Scripted", (dict,), {"__getitem__": lambda *_: next(times)})(half=1)
    report = run(lab, ["half"], ["p"], seeds=(0, 1, 2))
    assert [sample.speedup for sample in report.samples] == [2, 20, 3]
    assert report.rows[0].speedup == 3


def test_mean_and_error_by_hand() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2, 1 / math.sqrt(3)))
    assert mean_and_error([1.0, math.nan, 3.0]) == pytest.approx((2, 1))
    mean, error = mean_and_error([5.0])
    assert mean == 5 and math.isnan(error)
    assert all(math.isnan(value) for value in mean_and_error([math.nan]))


def test_report_is_saved_with_provenance(lab: Lab, tmp_path: Path) -> None:
    report = run(lab, {"mine": ("half", "third")}, out=tmp_path / "report.json", image=object())
    loaded = QualityReport.load(tmp_path / "report.json")
    assert loaded.to_dict() == report.to_dict()
    where = loaded.provenance
    assert where["pipeline"] == "Lab" and where["prompts"] == ["p", "q"] and where["seeds"] == [0, 1]
    assert where["inputs"] == {"num_inference_steps": 6, "image": "<object>"}
    assert where["accelerations"] == {"mine": ["half", "third"]} and where["model"] == "lab"
    assert set(where["versions"]) == {"torch", "diffusers", "dit_accel"}
    assert where["device"] and where["date"]
    assert set(where["unavailable_metrics"]) <= set(metrics.METRICS)


def test_videos_are_kept_as_files_with_their_differences(lab: Lab, tmp_path: Path) -> None:
    report = run(lab, ["half", "third"], ["p", "q"], seeds=[1], videos=tmp_path / "kept", fps=6)
    assert report.videos == tmp_path / "kept" and report.provenance["fps"] == 6
    names = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert names == sorted(
        video_file(prompt, 1, label, is_difference=is_difference)
        for prompt in (0, 1)
        for label in (0, 1, 2)
        for is_difference in (False, True)
        if label or not is_difference
    )


def test_what_each_step_did_and_the_values_of_frames_are_kept(lab: Lab) -> None:
    (sample,) = run(lab, ["half"], ["p"], seeds=[0]).samples
    assert sample.steps == {
        "transformer": {"cond": "FSRRRR", "uncond": "FFRRRP"},
        "transformer_2": {"cond": "-----F"},
    }
    assert sample.frames["psnr"] == pytest.approx((20, 20), abs=1e-3)
    assert sample.metrics["psnr"] == pytest.approx(20, abs=1e-3)


def test_the_full_runs_are_in_the_provenance(lab: Lab) -> None:
    assert run(lab).provenance["baseline"] == {"denoise_seconds": 12.0, "peak_memory_bytes": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": []}, "prompts must be a non-empty list"),
        ({"prompts": "a prompt"}, "Put a single one into a list"),
        ({"prompts": ["p", "p"]}, "prompts must be distinct"),
        ({"seeds": []}, "seeds must be a non-empty list"),
        ({"seeds": [True]}, "seeds must be distinct values of type int"),
        ({"accelerations": ["half", "half"]}, "Labels must be distinct"),
        ({"accelerations": {"baseline": "half"}}, "other than 'baseline'"),
        ({"accelerations": []}, "accelerations must be"),
        ({"accelerations": "half"}, "accelerations must be"),
        ({"accelerations": {"mine": ()}}, "'mine' is empty"),
        ({"metrics": ["fid"]}, "no metric 'fid'"),
        ({"output_type": "pil"}, "got output_type. Leave"),
        ({"out": "no/such/folder/report.json"}, "Create it first"),
        ({"out": "."}, "is a folder"),
        ({"fps": 0}, "fps must be an integer from 1 to 240"),
        ({"videos": "/dev/null/videos"}, "cannot be made"),
    ],
)
def test_bad_arguments_are_found_before_anything_is_generated(lab: Lab, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(lab, **changes)
    assert lab.log == []


def test_unknown_presets_and_missing_metrics_are_found_before_anything_is_generated(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownPresetError):
        run(lab, ["half", "quarter"])
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(MetricUnavailableError, match="scikit-image"):
        run(lab, metrics=("psnr", "ssim"))
    assert lab.log == []


def test_several_videos_a_call_and_a_still_clock_are_refused(lab: Lab) -> None:
    lab.videos = 2
    with pytest.raises(ConfigError, match="num_videos_per_prompt"):
        run(lab)
    lab.videos, lab.seconds["half"] = 1, 0.0
    with pytest.raises(DitAccelError, match="its denoiser was not called"):
        run(lab)


def test_on_the_tiny_pipeline() -> None:
    pipe = wan.tiny()
    pipe.set_progress_bar_config(disable=True)
    plans = {"all": LeMiCaConfig(CacheSchedule(4, (0, 1, 2, 3))), "half": LeMiCaConfig(CacheSchedule(4, (0, 2)))}
    inputs: dict[str, Any] = {**tiny_inputs(), "num_inference_steps": 4}
    chosen = ("psnr", "psnr_moving")
    report = evaluate(pipe, plans, ["a red seven"], seeds=[0, 1], metrics=chosen, progress=False, **inputs)
    everything, half = report.rows
    assert everything.metrics["psnr"][0] == metrics.MAX_PSNR  # bit-identical to the full run
    assert half.metrics["psnr"][0] < metrics.MAX_PSNR
    assert (everything.computed_steps, half.computed_steps, half.num_steps) == (4, 2, 4)
    assert half.speedup > 0 and half.cache_bytes_peak > 0 and half.num_videos == 2
