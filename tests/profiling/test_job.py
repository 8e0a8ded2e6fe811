"""`profile` on the tiny pipeline: what an edge means, what stays untouched, and which arguments are bad."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_accel import LeMiCaConfig, enable_acceleration
from dit_accel.errors import AlreadyAcceleratedError, ConfigError, UnsupportedPipelineError
from dit_accel.pipelines import wan
from dit_accel.profiling import job, measurement
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.schedule import CacheSchedule

from ..conftest import tiny_inputs
from .conftest import ARGUMENTS, NUM_STEPS, PROMPTS, ROLLOUT, Run, latents

# What an edge means


@pytest.mark.parametrize("edge", [(0, 2), (1, 4), (2, 5), (3, 5)])
def test_an_edge_is_what_a_user_gets_with_that_schedule(
    pipe: Any, finished: tuple[Path, ErrorGraph], edge: tuple[int, int]
) -> None:
    start, stop = edge
    compute = tuple(step for step in range(NUM_STEPS) if step <= start or step >= stop)
    errors = []
    for batch in (PROMPTS[:2], PROMPTS[2:]):
        full = latents(pipe, batch)
        with enable_acceleration(pipe, LeMiCaConfig(CacheSchedule(NUM_STEPS, compute))) as acceleration:
            reused = latents(pipe, batch)
        assert acceleration.stats.reused_steps["transformer"]["cond"] == list(range(start + 1, stop))
        errors += (reused - full).abs().flatten(1).double().mean(1).tolist()
    assert len(errors) == 3 and all(error > 0 for error in errors)
    assert finished[1].edges[edge] == sum(errors) / 3  # bit for bit


def test_every_edge_is_there_and_paid_for(finished: tuple[Path, ErrorGraph]) -> None:
    graph = finished[1]
    assert set(graph.edges) == {(i, j) for i in range(NUM_STEPS) for j in range(i + 2, min(i + 4, NUM_STEPS))}
    # A rollout computes its first step and the steps from `stop` on, for each of the three videos.
    assert graph.rollout_steps == 3 * (NUM_STEPS + sum(1 + NUM_STEPS - stop for _, stop in graph.edges))
    provenance = graph.provenance
    assert provenance["batches"] == [
        {"prompts": list(PROMPTS[:2]), "seed": 0},
        {"prompts": list(PROMPTS[2:]), "seed": 0},
    ]
    assert provenance["inputs"] == tiny_inputs() and provenance["num_inference_steps"] == NUM_STEPS
    assert len(provenance["model"]["weights_sha256"]) == 64
    json.dumps(provenance, allow_nan=False)


def test_weights_are_told_apart(pipe: Any) -> None:
    before = job.weights_sha256(pipe)
    weight = next(pipe.transformer.parameters())
    with torch.no_grad():
        first = weight.view(-1)[0].clone()
        weight.view(-1)[0] += 1
        changed = job.weights_sha256(pipe)
        weight.view(-1)[0] = first
    assert changed != before == job.weights_sha256(pipe)


def test_without_workdir_and_with_all_segments(pipe: Any) -> None:
    graph = profile(pipe, PROMPTS[:1], **{**ARGUMENTS, "num_inference_steps": 4, "max_segment": None}, seeds=[0, 5])
    assert set(graph.edges) == {(0, 2), (0, 3), (1, 3)}
    assert [batch["seed"] for batch in graph.provenance["batches"]] == [0, 5]


# The pipeline


def attributes(pipe: Any) -> dict[str, list[str]]:
    modules = {"": pipe, **dict(pipe.transformer.named_modules(prefix="transformer"))}
    hooks = {
        name: [str(len(module._forward_hooks)), str(len(module._forward_pre_hooks))]
        for name, module in pipe.transformer.named_modules(prefix="hooks")
    }
    return {**{name: sorted(vars(module)) for name, module in modules.items()}, **hooks}


@pytest.mark.parametrize("bar", [None, {}, {"desc": "mine", "leave": False}])
@pytest.mark.parametrize("fails", [False, True])
def test_the_pipeline_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: dict[str, Any] | None, fails: bool
) -> None:
    pipe = wan.tiny()
    untouched = latents(pipe, PROMPTS[:1])
    vars(pipe).pop("_progress_bar_config", None)
    if bar is not None:
        pipe.set_progress_bar_config(**bar)
    before = attributes(pipe)
    if fails:
        denoise = type(pipe.scheduler).step
        steps = iter(range(NUM_STEPS + 3))  # the full run passes, a rollout breaks in its middle

        def breaks(self: Any, *args: Any, **kwargs: Any) -> Any:
            if next(steps, None) is None:
                raise ZeroDivisionError
            return denoise(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(type(pipe.scheduler), "step", breaks)
            profile(pipe, PROMPTS[:1], workdir=tmp_path, **ARGUMENTS)
    else:
        profile(pipe, PROMPTS[:1], workdir=tmp_path, **{**ARGUMENTS, "max_segment": 2})
    assert attributes(pipe) == before
    assert vars(pipe).get("_progress_bar_config") == bar
    assert torch.equal(latents(pipe, PROMPTS[:1]), untouched)


def test_accelerated_and_foreign_pipelines_are_refused(pipe: Any, tmp_path: Path) -> None:
    with (
        enable_acceleration(pipe, LeMiCaConfig(CacheSchedule(NUM_STEPS, (0, 3)))),
        pytest.raises(AlreadyAcceleratedError, match="disable_acceleration"),
    ):
        profile(pipe, PROMPTS, workdir=tmp_path, **ARGUMENTS)
    with pytest.raises(UnsupportedPipelineError):
        profile(object(), PROMPTS, workdir=tmp_path, **ARGUMENTS)
    assert list(tmp_path.iterdir()) == []


# Arguments


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": []}, "prompts must be a non-empty list"),
        ({"prompts": "a prompt"}, "got 'a prompt'"),
        ({"prompts": ["a", ""]}, "prompts must be a non-empty list of non-empty strings"),
        ({"prompts": [1]}, r"got \[1\]"),
        ({"prompts": None}, "got None"),
        ({"seeds": []}, r"seeds must be 1 to 10000 distinct integers of at least 0 and below 2\*\*63, got \[\]"),
        ({"seeds": 0}, "got 0"),
        ({"seeds": [0, 0]}, r"got \[0, 0\]"),
        ({"seeds": [-1]}, r"got \[-1\]"),
        ({"seeds": [True]}, r"got \[True\]"),
        ({"seeds": [2**64]}, "seeds must be 1 to 10000 distinct"),
        ({"seeds": range(10**12)}, r"seeds must be 1 to 10000 .*got range\(0, 1000000000000\)"),
        ({"mode": "full"}, "mode='full' is not available. Use one of: 'exact', 'lazy', 'estimate'"),
        ({"mode": ["lazy"]}, r"mode=\['lazy'\] is not available"),
        ({"forecasts": []}, r"forecasts must be distinct names out of hold, scaled, .*fitted, got \[\]"),
        ({"forecasts": "hold"}, "forecasts must be distinct names .*got 'hold'"),
        ({"forecasts": ["hold", "hold"]}, r"got \['hold', 'hold'\]"),
        ({"forecasts": ["taylor3"]}, r"got \['taylor3'\]"),
        ({"forecasts": [["hold"]]}, r"got \[\['hold'\]\]"),
        ({"safety": -0.5}, "safety must be a finite number of at least 0, got -0.5"),
        ({"safety": float("inf")}, "safety must be a finite number of at least 0, got inf"),
        ({"safety": True}, "got True"),
        ({"num_inference_steps": 2}, "num_inference_steps must be an integer from 3 to 10000, got 2"),
        ({"num_inference_steps": 20_000}, "num_inference_steps must be an integer"),
        ({"num_inference_steps": "6", "max_segment": None}, "got '6'"),
        ({"num_inference_steps": 6.0}, "got 6.0"),
        ({"max_segment": 1}, "max_segment must be an integer from 2 to 10000, got 1"),
        ({"max_segment": True}, "got True"),
        ({"batch_size": 0}, "batch_size must be an integer from 1"),
        ({"output_type": "pil"}, "profile sets output_type itself"),
        ({"generator": None}, "profile sets generator itself"),
        ({"hieght": 16}, "WanPipeline takes no argument 'hieght'. Did you mean 'height'?"),
        ({"latents": torch.zeros(1)}, "latents must be a plain JSON value"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a plain JSON value.*got nan"),
        ({"workdir": None, "executor": object()}, "An executor needs a workdir"),
    ],
)
def test_bad_arguments_are_found_before_anything_is_done(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(type(pipe.scheduler), "set_timesteps", lambda *_, **__: pytest.fail("the pipeline ran"))
    arguments = {"prompts": PROMPTS, **ARGUMENTS, "workdir": tmp_path / "w", **changes}
    with pytest.raises(ConfigError, match=words):
        profile(pipe, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_bar_counts_denoiser_steps(
    again: Run, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measurement, "tqdm", functools.partial(measurement.tqdm, mininterval=0))  # every update
    (copy / ROLLOUT).unlink()
    total = again(progress=True).rollout_steps
    err = capsys.readouterr().err
    assert f"{total}/{total}" in err and f"{total - 8}/{total}" in err  # resumed: 2 videos of 4 steps were missing
