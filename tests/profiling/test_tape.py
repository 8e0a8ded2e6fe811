"""`OutputTape`: what it records and replays, and that it comes off again."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_accel.errors import UnsupportedPipelineError
from dit_accel.profiling.tape import OutputTape
from dit_accel.step_tracker import StepTracker

from ..conftest import run_tiny, tiny_pipeline

NUM_STEPS = 6


@pytest.fixture
def pipe() -> Any:
    """One of its own: the tests change it."""
    return tiny_pipeline()


def state(module: nn.Module) -> tuple[list[str], int, int]:
    return sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks)


def taped(pipe: Any, tape: OutputTape) -> Tensor:
    """One run of the pipeline with the tape in place."""
    with ExitStack() as undo:
        undo.callback(tape.install("transformer", pipe.transformer, StepTracker(pipe)))
        return run_tiny(pipe)


def test_recording_changes_nothing_and_leaves_nothing(pipe):
    expected, before = run_tiny(pipe), state(pipe.transformer)
    tape = OutputTape()
    assert taped(pipe, tape).equal(expected)
    assert state(pipe.transformer) == before
    assert run_tiny(pipe).equal(expected)
    assert sorted(tape.outputs) == [f"transformer/{b}/{s:04d}" for b in ("cond", "uncond") for s in range(NUM_STEPS)]


@pytest.mark.parametrize("replayed", [(), {0}, {0, 1, 2}, range(NUM_STEPS), {1, 3, 4}])
def test_a_replayed_run_ends_in_the_same_latents_and_skips_its_steps(pipe, replayed):
    tape = OutputTape()
    expected = taped(pipe, tape)
    calls = []
    pipe.transformer.blocks[0].attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
    tape.replayed = replayed
    assert taped(pipe, tape).equal(expected)
    assert len(calls) == 2 * (NUM_STEPS - len(replayed))


def test_what_is_replayed_is_the_tape_and_not_the_model(pipe):
    tape = OutputTape()
    expected = taped(pipe, tape)
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(2)
    tape.replayed = range(NUM_STEPS)
    assert taped(pipe, tape).equal(expected)
    tape.replayed = ()
    assert not taped(pipe, tape).equal(expected)


def test_the_tape_survives_model_offload_between_two_calls(pipe):
    """diffusers takes accelerate's hooks off and puts them back after every call."""
    tape = OutputTape()
    pipe.enable_model_cpu_offload(device="cpu")
    undo = tape.install("transformer", pipe.transformer, StepTracker(pipe))
    expected = run_tiny(pipe)
    calls = []
    pipe.transformer.blocks[0].attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
    tape.replayed = range(NUM_STEPS)
    assert run_tiny(pipe).equal(expected)
    assert calls == []
    undo()
    run_tiny(pipe)
    assert len(calls) == 2 * NUM_STEPS


class Plain(nn.Module):
    """A denoiser that gives out what it is asked for."""

    def forward(self, x: Tensor, return_dict: bool = True) -> Any:
        return {"sample": x} if return_dict else (x,)


def test_the_tape_wants_tuples():
    denoiser, tape = Plain(), OutputTape()
    pipe: Any = SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.arange(NUM_STEPS), step_index=0))
    tape.install("transformer", denoiser, StepTracker(pipe))
    with pytest.raises(UnsupportedPipelineError, match="return_dict=False"):
        denoiser(torch.ones(1, 2))
    assert denoiser(torch.ones(1, 2), return_dict=False)[0].shape == (1, 2)
    assert len(tape.outputs) == 1
