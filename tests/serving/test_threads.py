"""Pipelines in threads: those that share a denoiser are right, those that share a scheduler are refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanPipeline, WanVideoToVideoPipeline

from dit_accel import enable_acceleration
from dit_accel.errors import ConcurrentUseError, ScheduleMismatchError
from dit_accel.pipelines import wan

from .conftest import METHODS, NUM_STEPS, SCHEDULE, SIZES, Meeting, Worker, at_step, every_method, run, sharing, tiny

# Pipelines that share the denoiser


@every_method
def test_three_threads_on_one_denoiser_make_the_videos_of_pipelines_of_their_own(pipe, configs):
    alone, plain = tiny(), run(pipe)
    with enable_acceleration(alone, *configs):
        expected = [run(alone, seed, **SIZES[seed]) for seed in range(3)]
    with enable_acceleration(pipe, *configs) as acceleration:
        pipes = [pipe, sharing(pipe), sharing(pipe)]

        def serve(seed: int) -> list[Any]:
            return [run(pipes[seed], seed, **SIZES[seed]) for _ in range(4)]

        workers = [Worker(lambda seed=seed: serve(seed)) for seed in range(3)]
        for worker, wanted in zip(workers, expected, strict=True):
            assert all(found.equal(wanted) for found in worker.result())
        for each in pipes:
            assert acceleration.stats_of(each).reused_steps["transformer"]["cond"] == [1, 2, 4, 5]
    assert run(pipe).equal(plain)


@every_method
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_whole_run_between_two_steps_of_another_changes_neither(pipe, configs, at):
    """As a server does that makes a preview in a callback."""
    with enable_acceleration(pipe, *configs):
        expected, preview = run(pipe), run(pipe, 1, **SIZES[2])
        other, found = sharing(pipe), []
        outer = run(pipe, callback_on_step_end=at_step(at, lambda: found.append(run(other, 1, **SIZES[2]))))
        assert outer.equal(expected)
        assert found[0].equal(preview)


@every_method
def test_two_runs_that_take_turns_step_by_step_are_both_right(pipe, configs):
    with enable_acceleration(pipe, *configs):
        expected = run(pipe), run(pipe, 1)
        other = sharing(pipe)
        turns = [[Meeting() for _ in range(NUM_STEPS)] for _ in range(2)]

        def stepping(each: Any, seed: int) -> Any:
            def callback(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                turns[seed][step].stop()
                return tensors

            return run(each, seed, callback_on_step_end=callback)

        workers = [Worker(lambda: stepping(pipe, 0)), Worker(lambda: stepping(other, 1))]
        for step in range(NUM_STEPS):
            for meetings in turns:
                meetings[step].wait()
            for meetings in turns:
                meetings[step].release()
        for worker, wanted in zip(workers, expected, strict=True):
            assert worker.result().equal(wanted)


def to_video(pipe: Any) -> Any:
    """A pipeline of another class on the same parts, but for the scheduler."""
    parts = {name: pipe.components[name] for name in ("tokenizer", "text_encoder", "transformer", "vae")}
    other = WanVideoToVideoPipeline(**parts, scheduler=copy.deepcopy(pipe.scheduler))
    other.set_progress_bar_config(disable=True)
    return other


def run_to_video(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    inputs = {**wan.tiny_inputs(), "height": 16, "width": 32, "num_inference_steps": NUM_STEPS, "strength": 1.0}
    inputs.pop("num_frames", None)
    generator = torch.Generator().manual_seed(0)
    found: torch.Tensor = pipe(video=video, generator=generator, output_type="latent", return_dict=False, **inputs)[0]
    return found


def test_another_class_on_the_same_denoiser_is_accelerated_by_its_own_scheduler(pipe):
    """Its calls carry no step, so everything depends on whose scheduler is looked at."""
    video = torch.rand(1, 5, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    fresh = to_video(tiny())
    with enable_acceleration(fresh, SCHEDULE):
        expected = run_to_video(fresh, video)
    with enable_acceleration(pipe, SCHEDULE) as acceleration:
        other, wanted = to_video(pipe), run(pipe)
        for _ in range(2):
            assert run_to_video(other, video).equal(expected)
            assert run(pipe).equal(wanted)
        assert acceleration.stats_of(other).reused_steps["transformer"]["call0"] == [1, 2, 4, 5]


def test_the_context_of_another_thread_is_not_taken_for_this_ones(pipe):
    def other() -> None:
        with pipe.transformer.cache_context("uncond"):
            pass

    with enable_acceleration(pipe, SCHEDULE) as acceleration:
        loop(pipe, before=lambda: Worker(other).result())
        assert list(acceleration.stats.computed_steps["transformer"]) == ["cond"]


def test_stats_are_those_of_one_pipeline(pipe):
    with enable_acceleration(pipe, *METHODS["probe"]) as acceleration:
        other = sharing(pipe)
        assert acceleration.stats_of(other).num_steps == 0
        run(other, num_inference_steps=4)
        assert acceleration.stats.num_steps == 0
        run(pipe)
        assert (acceleration.stats.num_steps, acceleration.stats_of(other).num_steps) == (NUM_STEPS, 4)
        assert acceleration.stats_of(pipe) == acceleration.stats


# What is refused


def at_once(pipe: Any, other: Any, at: int) -> tuple[Worker, Meeting]:
    """Another thread is in a run of ``other``, at the end of step ``at``, while this one calls ``pipe``."""
    meeting = Meeting()
    worker = Worker(lambda: run(other, 1, callback_on_step_end=at_step(at, meeting.stop)))
    meeting.wait()
    with pytest.raises(ConcurrentUseError, match=r"use one UniPCMultistepScheduler .*WanPipeline, in thread 'MainTh"):
        run(pipe)
    return worker, meeting


@every_method
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("shares", ["pipeline", "scheduler"])
def test_two_calls_on_one_scheduler_are_both_refused_and_the_next_call_is_right(pipe, configs, at, shares):
    other = pipe if shares == "pipeline" else WanPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    with enable_acceleration(pipe, *configs):
        expected = run(pipe)
        worker, meeting = at_once(pipe, other, at)
        meeting.release()
        with pytest.raises(ConcurrentUseError):  # the other call has set its scheduler back to the first step
            worker.result()
        assert run(other).equal(expected)
        assert run(pipe).equal(expected)


def test_a_call_that_has_no_step_left_is_not_disturbed(pipe):
    with enable_acceleration(pipe, SCHEDULE):
        expected = run(pipe, 1)
        worker, meeting = at_once(pipe, pipe, NUM_STEPS - 1)
        meeting.release()
        assert worker.result().equal(expected)
        assert run(pipe, 1).equal(expected)


def test_a_run_within_a_run_of_the_same_pipeline_is_refused_when_that_goes_on(pipe):
    with enable_acceleration(pipe, SCHEDULE):
        expected = run(pipe)
        with pytest.raises(ConcurrentUseError):
            run(pipe, callback_on_step_end=at_step(1, lambda: run(pipe)))
        assert run(pipe).equal(expected)


def test_one_pipeline_may_go_from_thread_to_thread(pipe):
    with enable_acceleration(pipe, SCHEDULE):
        expected = run(pipe)
        for _ in range(3):
            assert Worker(lambda: run(pipe)).result().equal(expected)


def test_enabling_and_disabling_are_refused_while_another_thread_is_in_a_call(pipe):
    other, meeting = sharing(pipe), Meeting()
    plain = run(pipe, 1)
    with enable_acceleration(pipe, SCHEDULE) as acceleration:
        expected = run(pipe, 1)
        worker = Worker(lambda: run(other, 1, callback_on_step_end=at_step(2, meeting.stop)))
        meeting.wait()
        with pytest.raises(ConcurrentUseError, match=r"^disable\(\) was asked for while another thread"):
            acceleration.disable()
        meeting.release()
        assert worker.result().equal(expected)
    meeting = Meeting()
    worker = Worker(lambda: run(other, 1, callback_on_step_end=at_step(2, meeting.stop)))
    meeting.wait()
    with pytest.raises(ConcurrentUseError, match=r"^enable_acceleration was asked for"):
        enable_acceleration(pipe, SCHEDULE)
    enable_acceleration(tiny(), SCHEDULE).disable()  # another denoiser is none of its business
    meeting.release()
    assert worker.result().equal(plain)


def test_a_refused_number_of_steps_does_not_reach_other_threads(pipe):
    other, meeting = sharing(pipe), Meeting()
    with enable_acceleration(pipe, SCHEDULE):
        expected = run(pipe, 1)
        worker = Worker(lambda: run(other, 1, callback_on_step_end=at_step(2, meeting.stop)))
        meeting.wait()
        with pytest.raises(ScheduleMismatchError, match="planned for 6 steps, this run has 5"):
            run(pipe, num_inference_steps=5)
        meeting.release()
        assert worker.result().equal(expected)


# Loops of a user's own, in which no pipeline calls


def loop(
    pipe: Any, steps: range | None = None, *, begin: bool = True, before: Callable[[], object] = lambda: None
) -> torch.Tensor:
    """Denoise without the pipeline, by its scheduler; ``before`` is called in the context of each call."""
    if begin:
        pipe.scheduler.set_timesteps(NUM_STEPS)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 1, 2, 4, generator=generator)
    text = torch.randn(1, 16, pipe.transformer.config.text_dim, generator=generator)
    for step in range(NUM_STEPS) if steps is None else steps:
        time = pipe.scheduler.timesteps[step]
        with torch.no_grad(), pipe.transformer.cache_context("cond"):
            before()
            noise = pipe.transformer(latents, time.expand(1), text, return_dict=False)[0]
        latents = pipe.scheduler.step(noise, time, latents, return_dict=False)[0]
    return latents


def test_a_loop_of_ones_own_is_accelerated_and_may_follow_calls(pipe):
    fresh = tiny()
    with enable_acceleration(fresh, SCHEDULE):
        expected = loop(fresh)
    with enable_acceleration(pipe, SCHEDULE) as acceleration:
        for _ in range(2):
            run(pipe)
            assert loop(pipe).equal(expected)
            assert acceleration.stats.reused_steps["transformer"]["cond"] == [1, 2, 4, 5]
        assert Worker(lambda: loop(pipe)).result().equal(expected)


def test_two_loops_on_one_scheduler_are_refused(pipe):
    with enable_acceleration(pipe, SCHEDULE):
        loop(pipe, range(2))
        Worker(lambda: loop(pipe, range(2, 3), begin=False)).result()  # handed over for good
        with pytest.raises(ConcurrentUseError):
            loop(pipe, range(3, 4), begin=False)
        assert loop(pipe).isfinite().all()


def test_looking_at_other_threads_does_not_wait_for_a_collection() -> None:
    """In CPython before 3.12 a collection inside of it that frees a `threading.local` would never end."""
    code = """
import gc, threading, time
from dit_accel._diffusers.callers import calls_elsewhere

class Local(threading.local):
    pass

def wait():
    time.sleep(0.0001)  # a new frame every time

def work():
    while is_wanted:
        wait()

is_wanted = True
other = threading.Thread(target=work)
other.start()
gc.set_threshold(1)
for _ in range(300):
    local = Local()
    local.itself = local
    del local
    calls_elsewhere()
    time.sleep(0.0002)
is_wanted = False
other.join()
assert gc.isenabled()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
