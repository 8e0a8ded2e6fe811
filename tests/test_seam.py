"""The seam to diffusers: which step a call is, what is timed, what is taped, and that all of it comes off again."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_accel._diffusers import (
    DenoiseClock,
    DenoiserCall,
    StepTracker,
    denoisers_of,
    find_blocks,
    observe_calls,
    stream_positions,
)
from dit_accel.errors import UnsupportedPipelineError
from dit_accel.profiling.tape import OutputTape
from dit_accel.registry import all_specs
from dit_accel.specs import BlockSpec

NUM_STEPS = 6


def fake_pipe(**scheduler: Any) -> Any:
    return SimpleNamespace(scheduler=SimpleNamespace(**{"timesteps": torch.arange(NUM_STEPS), **scheduler}))


def test_the_step_of_the_context_comes_first():
    tracker = StepTracker(fake_pipe(step_index=5))
    call = tracker.observe("transformer", {"name": "cond", "step_index": 2, "num_inference_steps": 40})
    assert call == DenoiserCall("transformer", "cond", 2, 40, 0)


def test_else_the_schedulers_step_counts():
    pipe = fake_pipe(step_index=None)
    tracker = StepTracker(pipe)
    assert tracker.observe("transformer", {}) == DenoiserCall("transformer", "default", 0, NUM_STEPS, 0)
    pipe.scheduler.step_index = 3
    assert tracker.observe("transformer", {"name": "uncond"}) == DenoiserCall("transformer", "uncond", 3, NUM_STEPS, 0)


def test_no_step_at_all_is_refused_with_the_schedulers_name():
    with pytest.raises(UnsupportedPipelineError, match=r"SimpleNamespace cannot be told.*flow-matching scheduler"):
        StepTracker(fake_pipe()).observe("transformer", {"name": "cond"})


def trajectories(tracker: StepTracker, steps: list[int]) -> list[int]:
    return [tracker.observe("transformer", {"name": "cond", "step_index": step}).trajectory for step in steps]


def test_a_step_backwards_is_a_new_trajectory_and_the_same_step_is_not():
    assert trajectories(StepTracker(fake_pipe()), [0, 0, 1, 1, 4, 0, 1, 0]) == [0, 0, 0, 0, 0, 1, 1, 2]


def test_new_timesteps_are_a_new_trajectory_even_at_a_later_step():
    pipe = fake_pipe()
    tracker = StepTracker(pipe)
    assert trajectories(tracker, [0, 1]) == [0, 0]
    pipe.scheduler.timesteps = torch.arange(NUM_STEPS)
    assert trajectories(tracker, [1, 2]) == [1, 1]


def test_one_tracker_serves_all_denoisers():
    tracker = StepTracker(fake_pipe())
    calls = [tracker.observe(name, {"step_index": step}) for name, step in (("a", 0), ("b", 0), ("b", 3), ("a", 3))]
    assert [call.trajectory for call in calls] == [0, 0, 0, 0]
    assert [call.denoiser for call in calls] == ["a", "b", "b", "a"]


class Denoiser(nn.Module):
    """The least that the seam needs."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[str] = []
        self.layer = nn.Linear(2, 2)

    @contextmanager
    def cache_context(self, name: str, **kwargs: Any) -> Any:
        self.contexts.append(name)
        yield

    def forward(self, x: Tensor, fail: bool = False, return_dict: bool = True) -> tuple[Tensor]:
        if fail:
            raise RuntimeError("in the forward")
        return (self.layer(x),)


class Notes:
    """A `CallObserver` that writes down what it is told."""

    def __init__(self, name: str, log: list[tuple[Any, ...]]) -> None:
        self.name, self.log = name, log

    def begin(self, call: DenoiserCall) -> None:
        self.log.append((self.name, "begin", call.branch, call.step))

    def end(self) -> None:
        self.log.append((self.name, "end"))


def state(module: nn.Module) -> tuple[list[str], int, int]:
    return sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks)


def test_observers_see_branch_and_step_and_stack():
    denoiser, tracker, log = Denoiser(), StepTracker(fake_pipe()), []
    before = state(denoiser)
    undo = [observe_calls("transformer", denoiser, tracker, Notes(name, log)) for name in ("first", "second")]
    with denoiser.cache_context("cond", step_index=3):
        denoiser(torch.ones(1, 2))
    assert log == [
        ("first", "begin", "cond", 3),
        ("second", "begin", "cond", 3),
        ("first", "end"),
        ("second", "end"),
    ]
    assert denoiser.contexts == ["cond"]
    log.clear()
    undo.pop()()
    with denoiser.cache_context("uncond", step_index=4):
        denoiser(torch.ones(1, 2))
    assert log == [("first", "begin", "uncond", 4), ("first", "end")]
    log.clear()
    undo.pop()()
    assert state(denoiser) == before
    with denoiser.cache_context("cond"):
        denoiser(torch.ones(1, 2))
    assert log == []
    assert denoiser.contexts == ["cond", "uncond", "cond"]


def test_an_instance_override_that_was_there_before_is_put_back():
    denoiser = Denoiser()
    own = denoiser.cache_context
    denoiser.cache_context = own
    observe_calls("transformer", denoiser, StepTracker(fake_pipe()), Notes("", []))()
    assert vars(denoiser)["cache_context"] is own


def test_a_context_ends_also_after_an_error():
    denoiser, log = Denoiser(), []
    observe_calls("transformer", denoiser, StepTracker(fake_pipe(step_index=1)), Notes("n", log))
    with pytest.raises(RuntimeError, match="in the forward"), denoiser.cache_context("cond", step_index=0):
        denoiser(torch.ones(1, 2), fail=True)
    denoiser(torch.ones(1, 2))
    assert log == [("n", "begin", "cond", 0), ("n", "begin", "default", 1), ("n", "end")]


@pytest.fixture
def pipe() -> Any:
    pipe = next(spec for spec in all_specs() if spec.family == "wan").tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, **changes: Any) -> Tensor:
    inputs = {"prompt": "a red seven spinning on navy", "height": 16, "width": 16, "num_frames": 9, **changes}
    return pipe(
        num_inference_steps=NUM_STEPS,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        return_dict=False,
        **inputs,
    )[0]


def test_the_clock_shows_the_denoising_only(pipe):
    run(pipe)
    before = state(pipe.transformer)
    with DenoiseClock(pipe) as clock:
        assert clock.seconds == 0
        start = time.perf_counter()
        run(pipe)
        assert 0 < clock.seconds < time.perf_counter() - start
    assert state(pipe.transformer) == before
    assert clock.seconds > 0


def test_the_clock_comes_off_also_after_an_error(pipe):
    run(pipe)
    before = state(pipe.transformer)
    with pytest.raises(KeyError, match="stop"), DenoiseClock(pipe):
        raise KeyError("stop")
    assert state(pipe.transformer) == before


def taped(pipe: Any, tape: OutputTape) -> Tensor:
    """One run of the pipeline with the tape in place."""
    with ExitStack() as undo:
        undo.callback(tape.install("transformer", pipe.transformer, StepTracker(pipe)))
        return run(pipe)


def test_recording_changes_nothing_and_leaves_nothing(pipe):
    expected, before = run(pipe), state(pipe.transformer)
    tape = OutputTape()
    assert taped(pipe, tape).equal(expected)
    assert state(pipe.transformer) == before
    assert run(pipe).equal(expected)
    assert sorted(tape.outputs) == [f"transformer/{b}/{s:04d}" for b in ("cond", "uncond") for s in range(NUM_STEPS)]


@pytest.mark.parametrize("until", [0, 1, 3, NUM_STEPS])
def test_a_replayed_run_ends_in_the_same_latents_and_skips_its_steps(pipe, until):
    tape = OutputTape()
    expected = taped(pipe, tape)
    calls = []
    pipe.transformer.blocks[0].attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
    tape.replay_until = until
    assert taped(pipe, tape).equal(expected)
    assert len(calls) == 2 * (NUM_STEPS - until)


def test_what_is_replayed_is_the_tape_and_not_the_model(pipe):
    tape = OutputTape()
    expected = taped(pipe, tape)
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(2)
    tape.replay_until = NUM_STEPS
    assert taped(pipe, tape).equal(expected)
    tape.replay_until = 0
    assert not taped(pipe, tape).equal(expected)


def test_the_tape_survives_model_offload_between_two_calls(pipe):
    """diffusers takes accelerate's hooks off and puts them back after every call."""
    tape = OutputTape()
    pipe.enable_model_cpu_offload(device="cpu")
    undo = tape.install("transformer", pipe.transformer, StepTracker(pipe))
    expected = run(pipe)
    calls = []
    pipe.transformer.blocks[0].attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
    tape.replay_until = NUM_STEPS
    assert run(pipe).equal(expected)
    assert calls == []
    undo()
    run(pipe)
    assert len(calls) == 2 * NUM_STEPS


def test_the_tape_wants_tuples():
    denoiser, tape = Denoiser(), OutputTape()
    tape.install("transformer", denoiser, StepTracker(fake_pipe(step_index=0)))
    with pytest.raises(UnsupportedPipelineError, match="return_dict=False"):
        denoiser(torch.ones(1, 2))
    assert denoiser(torch.ones(1, 2), return_dict=False)[0].shape == (1, 2)


def test_denoisers_that_are_none_are_left_out_and_compiled_ones_unwrapped(pipe):
    assert list(denoisers_of(pipe, ("transformer", "transformer_2", "no_such"))) == ["transformer"]
    original = pipe.transformer
    pipe.transformer = torch.compile(original, backend="eager")
    assert denoisers_of(pipe, ("transformer",))["transformer"] is original


def test_blocks_and_streams_that_are_not_there_are_refused(pipe):
    with pytest.raises(UnsupportedPipelineError, match=r"WanTransformer3DModel.*no blocks under layers"):
        find_blocks("transformer", pipe.transformer, BlockSpec(lists=("layers",)))
    block = pipe.transformer.blocks[0]
    assert stream_positions(block, ("encoder_hidden_states", "hidden_states")) == (1, 0)
    with pytest.raises(UnsupportedPipelineError, match=r"WanTransformerBlock.*no argument \['video'\]"):
        stream_positions(block, ("video",))


def test_a_denoiser_without_branches_is_refused() -> None:
    with pytest.raises(UnsupportedPipelineError, match=r"transformer \(Linear\) has no cache_context"):
        observe_calls("transformer", nn.Linear(1, 1), StepTracker(None), None)  # type: ignore[arg-type]
