"""`profile` on the tiny pipeline: what an edge means, what a work directory survives, and what stays untouched."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import LeMiCaConfig, enable_acceleration
from dit_accel.errors import AlreadyAcceleratedError, ConfigError, JobError, UnsupportedPipelineError
from dit_accel.profiling import distributed, job
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.profiling.rollout import BatchRunner
from dit_accel.profiling.workdir import WorkDir
from dit_accel.registry import all_specs
from dit_accel.schedule import CacheSchedule

SPEC = all_specs()[0]
PROMPTS = ("a red seven moving left on navy", "a blue one spinning on gray", "a green two growing on black")
NUM_STEPS, MAX_SEGMENT = 6, 3
ARGUMENTS: dict[str, Any] = {
    "num_inference_steps": NUM_STEPS,
    "max_segment": MAX_SEGMENT,
    "batch_size": 2,
    "progress": False,
    **SPEC.tiny_inputs,
}
Run = Callable[..., ErrorGraph]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return SPEC.tiny()


@pytest.fixture(scope="module")
def finished(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ErrorGraph]:
    """The work directory of an uninterrupted job, and its graph. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, profile(pipe, PROMPTS, workdir=workdir, **ARGUMENTS)


@pytest.fixture
def copy(finished: tuple[Path, ErrorGraph], tmp_path: Path) -> Path:
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def again(pipe: Any, copy: Path) -> Run:
    return functools.partial(profile, pipe, PROMPTS, **{**ARGUMENTS, "workdir": copy})


def latents(pipe: Any, prompts: tuple[str, ...], seed: int = 0) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    inputs = {**SPEC.tiny_inputs, "num_inference_steps": NUM_STEPS, "output_type": "latent", "return_dict": False}
    found: Tensor = pipe(prompt=list(prompts), generator=generators, **inputs)[0]
    return found


def stamps(workdir: Path) -> dict[str, int]:
    files = [*(workdir / "rollouts").iterdir(), *workdir.glob("trajectory-*")]
    return {path.name: path.stat().st_mtime_ns for path in files}


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
    assert provenance["inputs"] == SPEC.tiny_inputs and provenance["num_inference_steps"] == NUM_STEPS
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


# Resuming


def test_a_finished_job_measures_nothing(
    again: Run, copy: Path, finished: tuple[Path, ErrorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchRunner, "_run", lambda *_, **__: pytest.fail("the denoiser ran"))
    before = stamps(copy)
    assert again() == finished[1]
    assert stamps(copy) == before


def test_only_what_is_missing_is_measured_again(again: Run, copy: Path, finished: tuple[Path, ErrorGraph]) -> None:
    deleted = {"000-000-002.json", "001-003-005.json", "trajectory-001.safetensors"}
    for path in [*copy.iterdir(), *(copy / "rollouts").iterdir()]:
        if path.name in deleted:
            path.unlink()
    (copy / "rollouts" / ".000-000-002.json.x1y2z3").write_text("{")  # as a kill leaves it
    kept = stamps(copy)
    assert again() == finished[1]
    after = stamps(copy)
    assert kept.items() <= after.items() and set(after) == set(kept) | deleted


@pytest.mark.parametrize("calls", [0, 1, 8])
def test_interrupted_and_resumed_is_the_same(
    pipe: Any, tmp_path: Path, finished: tuple[Path, ErrorGraph], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    measure, seen = BatchRunner.measure, []

    def fails_after(self: BatchRunner, start: int, stop: int) -> list[float]:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append((start, stop))
        return measure(self, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(BatchRunner, "measure", fails_after)
        with pytest.raises(KeyboardInterrupt):
            profile(pipe, PROMPTS, workdir=tmp_path, **ARGUMENTS)
    kept = stamps(tmp_path)
    assert len(list((tmp_path / "rollouts").iterdir())) == calls
    assert profile(pipe, PROMPTS, workdir=tmp_path, **ARGUMENTS) == finished[1]
    assert kept.items() <= stamps(tmp_path).items()


@pytest.mark.slow
def test_two_workers_give_the_same_graph(pipe: Any, tmp_path: Path, finished: tuple[Path, ErrorGraph]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers; the number of threads may change the last bits
    try:
        alone = profile(pipe, PROMPTS, workdir=tmp_path / "alone", **ARGUMENTS)
        with distributed.process_pool(SPEC.tiny, 2) as pool:
            assert profile(pipe, PROMPTS, workdir=tmp_path / "pool", executor=pool, **ARGUMENTS) == alone
    finally:
        torch.set_num_threads(threads)
    assert set(stamps(tmp_path / "pool")) == set(stamps(tmp_path / "alone"))


def _no_pipeline() -> Any:
    raise RuntimeError("no pipeline for this worker")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_that_cannot_start_are_a_job_error(again: Run, copy: Path) -> None:
    (copy / "rollouts" / "000-000-002.json").unlink()
    with (
        distributed.process_pool(_no_pipeline, 1) as pool,
        pytest.raises(JobError, match="A worker process ended"),
    ):
        again(executor=pool)


def test_other_executors_are_refused_and_the_rest_is_cancelled(again: Run, copy: Path) -> None:
    shutil.rmtree(copy / "rollouts")
    with ThreadPoolExecutor(1) as pool, pytest.raises(JobError, match="workers hold no pipeline"):
        again(executor=pool)


def test_a_failure_in_a_worker_cancels_what_has_not_begun(
    again: Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "rollouts")
    begun = []

    def fail(*arguments: Any) -> None:
        begun.append(arguments[-1])
        time.sleep(0.2)
        raise JobError("out of memory")

    monkeypatch.setattr(distributed, "run_in_worker", fail)
    with ThreadPoolExecutor(1) as pool, pytest.raises(JobError, match="out of memory"):
        again(executor=pool)
    assert 1 <= len(begun) <= 3  # of 14


# The work directory


def test_another_job_in_the_same_workdir_is_refused(
    pipe: Any, again: Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes, words in (
        ({"max_segment": 2}, "these differ: max_segment"),
        ({"seeds": [1]}, "these differ: batches"),
        ({"guidance_scale": 3.0, "num_inference_steps": 7}, "these differ: inputs, num_inference_steps"),
    ):
        with pytest.raises(JobError, match=words):
            again(**changes)
    monkeypatch.setattr(pipe, "scheduler", type(pipe.scheduler).from_config(pipe.scheduler.config, solver_order=1))
    with pytest.raises(JobError, match="these differ: scheduler"):
        again()


def test_unusable_workdirs(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/dev/null/x"):
        with pytest.raises(JobError, match=r"The work directory .* cannot be written"):
            profile(pipe, PROMPTS, workdir=path, **ARGUMENTS)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_in_use_is_refused(again: Run, copy: Path, finished: tuple[Path, ErrorGraph]) -> None:
    with (
        WorkDir(copy, finished[1].provenance).locked(),
        pytest.raises(JobError, match="Another process is working in"),
    ):
        again()
    assert again() == finished[1]
    (copy / "lock").unlink()
    (copy / "lock").mkdir()
    with pytest.raises(JobError, match="cannot be locked"):
        again()


ROLLOUT = "rollouts/000-001-003.json"
WHOLE = {"schema": "dit_accel.rollout", "version": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (ROLLOUT, "", "not valid JSON"),
        (ROLLOUT, '{"schema": "dit_accel.rollout", "ver', "not valid JSON"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5]}), "errors must be 2 numbers of at least 0"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": []}), "errors must be 2 numbers"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5, -1]}), "errors must be 2 numbers"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5, True]}), "errors must be 2 numbers"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": [0.5, float("nan")]}), "NaN is not a JSON number"),
        (ROLLOUT, json.dumps({**WHOLE, "errors": 3}), "errors must be 2 numbers"),
        ("job.json", "{", "is damaged"),
        ("job.json", "[]", r"is damaged: it holds \[\]"),
    ],
)
def test_damaged_results_are_named(again: Run, copy: Path, name: str, text: str, words: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(JobError, match=words) as caught:
        again()
    assert str(copy / name) in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign"])
def test_a_damaged_trajectory_is_named(again: Run, copy: Path, damage: str) -> None:
    path = copy / "trajectory-000.safetensors"
    whole = path.read_bytes()
    if damage == "foreign":
        shutil.copy(copy / "trajectory-001.safetensors", path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"")
    (copy / ROLLOUT).unlink()
    with pytest.raises(JobError, match=r"trajectory-000\.safetensors .*Delete it, and run the job again"):
        again()


def test_a_full_disk_is_a_job_error_and_can_be_resumed(
    again: Run, copy: Path, finished: tuple[Path, ErrorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / ROLLOUT).unlink()
    (copy / "trajectory-001.safetensors").unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for target in ("dit_accel.profiling.rollout.save_file", "dit_accel.schedule.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(JobError, match=r"cannot be written.*No space left on device"):
                again()
    assert again() == finished[1]


def test_a_run_that_diverges_is_told_and_not_stored(
    again: Run, copy: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / ROLLOUT).unlink()
    run = BatchRunner._run
    monkeypatch.setattr(BatchRunner, "_run", lambda self, **kwargs: run(self, **kwargs) * float("nan"))
    with pytest.raises(JobError, match="Reusing step 1 up to step 2 ends in NaN"):
        again()
    (copy / "trajectory-000.safetensors").unlink()
    with pytest.raises(JobError, match=r"The full run of .* ends in NaN"):
        again()
    assert not (copy / ROLLOUT).exists() and not (copy / "trajectory-000.safetensors").exists()


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
    pipe = SPEC.tiny()
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
        profile(object(), PROMPTS, workdir=tmp_path, **ARGUMENTS)  # type: ignore[arg-type]
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
        ({"seeds": []}, r"seeds must be distinct integers of at least 0 and below 2\*\*63, got \[\]"),
        ({"seeds": 0}, "got 0"),
        ({"seeds": [0, 0]}, r"got \[0, 0\]"),
        ({"seeds": [-1]}, r"got \[-1\]"),
        ({"seeds": [True]}, r"got \[True\]"),
        ({"seeds": [2**64]}, "seeds must be distinct"),
        ({"mode": "lazy"}, "mode='lazy' is not available. Use one of: 'exact'"),
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
    monkeypatch.setattr(BatchRunner, "_run", lambda *_, **__: pytest.fail("the denoiser ran"))
    arguments = {"prompts": PROMPTS, **ARGUMENTS, "workdir": tmp_path / "w", **changes}
    with pytest.raises(ConfigError, match=words):
        profile(pipe, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_bar_counts_denoiser_steps(again: Run, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / ROLLOUT).unlink()
    again(progress=True)
    total = 3 * sum(
        1 + NUM_STEPS - stop for start in range(NUM_STEPS) for stop in range(start + 2, min(start + 4, NUM_STEPS))
    )
    err = capsys.readouterr().err
    assert f"{total}/{total}" in err and f"{total - 8}/{total}" in err  # resumed: 2 videos of 4 steps were missing
