"""The seam to diffusers: who is told of a call, what is timed, and that all of it comes off again."""

from __future__ import annotations

import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from dit_accel._diffusers import (
    DenoiseClock,
    denoisers_of,
    find_blocks,
    observe_calls,
    output_tensors,
    replace_tensors,
    stream_positions,
)
from dit_accel.errors import UnsupportedPipelineError
from dit_accel.specs import BlockSpec
from dit_accel.step_tracker import DenoiserCall, StepTracker

from .conftest import run_tiny, tiny_pipeline

NUM_STEPS = 6


def fake_pipe(step_index: int = 0) -> Any:
    return SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.arange(NUM_STEPS), step_index=step_index))


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

    def forward(self, x: Tensor, fail: bool = False, cache: Any = None, return_dict: bool = True) -> tuple[Tensor]:
        if fail:
            raise RuntimeError("in the forward")
        return (self.layer(x),)


class Plain(nn.Module):
    """A denoiser without branches, that takes its timestep by another name."""

    def forward(self, x: Tensor, timestep_cond: Tensor | None = None) -> Tensor:
        return x + 1


class Notes:
    """A `CallObserver` that writes down what it is told, and gives out ``output`` instead if it has one."""

    def __init__(self, name: str, log: list[tuple[Any, ...]], output: Any = None) -> None:
        self.name, self.log, self.output = name, log, output

    def begin(self, call: DenoiserCall | None) -> None:
        self.log.append((self.name, "begin", *((call.branch, call.step) if call else ("none",))))

    def end(self, output: Any) -> Any:
        self.log.append((self.name, "end"))
        return self.output


def state(module: nn.Module) -> tuple[list[str], int, int]:
    return sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks)


def test_observers_see_branch_and_step_and_stack():
    denoiser, log = Denoiser(), []
    before = state(denoiser)
    undo = [
        observe_calls("transformer", denoiser, StepTracker(fake_pipe()), Notes(name, log))
        for name in ("first", "second")
    ]
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
    assert log == [("n", "begin", "cond", 0), ("n", "begin", "call0", 1), ("n", "end")]


def test_what_an_observer_gives_back_is_the_output():
    denoiser, log = Denoiser(), []
    undo = observe_calls("transformer", denoiser, StepTracker(fake_pipe()), Notes("n", log, output="another"))
    assert denoiser(torch.ones(1, 2)) == "another"
    undo()
    assert isinstance(denoiser(torch.ones(1, 2)), tuple)


@pytest.mark.parametrize(
    ("ignored", "arguments", "is_ignored"),
    [
        (("cache",), {"cache": object()}, True),
        (("cache",), {"cache": True}, True),
        (("cache",), {"cache": None}, False),
        (("cache",), {"cache": False}, False),
        (("cache",), {"cache": 0}, True),
        (("cache",), {}, False),
        (("cache.write",), {"cache": {"write": True}}, True),
        (("cache.write",), {"cache": {"write": False, "read": True}}, False),
        (("cache.write",), {"cache": None}, False),
        (("fail", "cache"), {"cache": object()}, True),
        ((), {"cache": object()}, False),
    ],
)
def test_calls_that_a_specification_leaves_alone_are_told_as_none(ignored, arguments, is_ignored):
    for by_position in (False, True):
        denoiser, log = Denoiser(), []
        observe_calls("transformer", denoiser, StepTracker(fake_pipe()), Notes("n", log), ignored)
        if by_position and "cache" in arguments:
            denoiser(torch.ones(1, 2), False, arguments["cache"])
        else:
            denoiser(torch.ones(1, 2), **arguments)
        assert log == [("n", "begin", "none") if is_ignored else ("n", "begin", "call0", 0), ("n", "end")]


def test_a_denoiser_without_branches_is_told_by_the_timestep_it_takes():
    denoiser, log = Plain(), []
    pipe = SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.tensor([900.0, 500.0, 100.0])))
    before = state(denoiser)
    undo = observe_calls("transformer", denoiser, StepTracker(pipe), Notes("n", log))
    denoiser(torch.ones(1), torch.tensor([900.0]))
    denoiser(torch.ones(1), timestep_cond=torch.tensor([900.0]))
    denoiser(torch.ones(1), torch.tensor([100.0]))
    assert [entry[2:] for entry in log[::2]] == [("call0", 0), ("call1", 0), ("call0", 2)]
    undo()
    assert state(denoiser) == before


@pytest.fixture
def pipe() -> Any:
    return tiny_pipeline()


def test_the_clock_shows_the_denoising_only(pipe):
    run_tiny(pipe)
    before = state(pipe.transformer)
    with DenoiseClock(pipe) as clock:
        assert clock.seconds == 0
        start = time.perf_counter()
        run_tiny(pipe)
        assert 0 < clock.seconds < time.perf_counter() - start
    assert state(pipe.transformer) == before
    assert clock.seconds > 0


def test_the_clock_comes_off_also_after_an_error(pipe):
    run_tiny(pipe)
    before = state(pipe.transformer)
    with pytest.raises(KeyError, match="stop"), DenoiseClock(pipe):
        raise KeyError("stop")
    assert state(pipe.transformer) == before


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


class Output(BaseOutput):
    """As denoisers have."""

    sample: Tensor
    extra: Any = None


def test_tensors_are_found_in_outputs_and_replaced_in_the_same_order():
    one, two, three = (torch.tensor(float(k)) for k in (1, 2, 3))
    for output, found in (
        (one, [one]),
        ((one, [two, "text", None], three), [one, two, three]),
        ((Output(sample=one, extra=(two,)), 5), [one, two]),
        ((None, "text"), []),
    ):
        assert [id(tensor) for tensor in output_tensors(output)] == [id(tensor) for tensor in found]
        replaced = replace_tensors(output, (tensor + 10 for tensor in found))
        assert type(replaced) is type(output)
        assert [float(tensor) for tensor in output_tensors(replaced)] == [float(tensor) + 10 for tensor in found]
    assert replace_tensors((one, "text", None), iter([two]))[1:] == ("text", None)
