"""How `random_walk` calls a pipeline: to the end, aborted in one of many ways, in a thread."""

from __future__ import annotations

import functools
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import dit_accel

if TYPE_CHECKING:
    from .requests import Request, Subject

HOME = str(Path(dit_accel.__file__).parent)
PROMPTS = ("a red seven moving left on navy", "a blue one growing on black")
ABORTS = (
    "interrupt",
    "error in the callback",
    "exit in the callback",
    "error in the denoiser",
    "exit in a block",
    "error in the text encoder",
    "error in the scheduler",
    "error in the VAE",
    "exit in dit_accel",
)


class Aborted(Exception):
    """What a callback or a part of the pipeline raises."""


def call(pipe: Any, subject: Subject, request: Request, **more: Any) -> Tensor:
    """What the pipeline makes, latents if nothing else is asked for."""
    inputs = {
        "output_type": "latent",
        "callback_on_step_end": _pausing(request),
        **subject.sizes[request.size],
        **more,
    }
    output: Tensor = pipe(
        prompt=[PROMPTS[request.prompt]] * request.batch,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        return_dict=False,
        **inputs,
    )[0]
    return output


def _pausing(request: Request) -> Callable[..., Any] | None:
    if request.pause is None:
        return None

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step in (request.pause, request.pause + 2):
            pipe._guidance_scale = 1.0 if step == request.pause else request.guidance
        return {}

    return callback


def at_step(at: int, action: Callable[[Any], object]) -> Callable[..., Any]:
    """A callback that does something with the pipeline at the end of one step."""

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            action(pipe)
        return {}

    return callback


def abort(pipe: Any, subject: Subject, request: Request, how: str, at: int) -> str:
    """A call that is aborted at step ``at``, or before or after the loop; gives how it really ended."""
    more: dict[str, Any] = {}
    undo: Callable[[], object] = lambda: None  # noqa: E731
    inside: AbstractContextManager[None] = nullcontext()
    passed = iter(range((2 if request.guidance > 1 else 1) * at + 1))

    def fail(*_: Any) -> None:
        if next(passed, None) is None:
            raise KeyboardInterrupt if how.startswith("exit") else Aborted

    if how == "interrupt":
        more["callback_on_step_end"] = at_step(at, lambda pipe: setattr(pipe, "_interrupt", True))
    elif how.endswith("callback"):
        passed = iter(())
        more["callback_on_step_end"] = at_step(at, fail)
    elif how.endswith("scheduler"):
        passed = iter(range(at))
        undo = _failing(pipe.scheduler, "step", fail)
    elif how.endswith("dit_accel"):
        inside = exit_at_line(37 * at * at + at)
    elif how.endswith("VAE"):
        passed = iter(())
        undo, more["output_type"] = _failing(pipe.vae, "decode", fail), "np"
    else:
        if how.endswith("encoder"):
            passed = iter(())
        parts = {"denoiser": pipe.transformer.rope, "block": pipe.transformer.blocks[1].ffn}
        undo = parts.get(how.split()[-1], pipe.text_encoder).register_forward_hook(fail).remove
    try:
        with inside:
            call(pipe, subject, request, **more)
    except (Aborted, KeyboardInterrupt) as error:
        return type(error).__name__
    finally:
        undo()
    return "interrupted" if how == "interrupt" else "finished"


@contextmanager
def exit_at_line(number: int) -> Iterator[None]:
    """Raises `KeyboardInterrupt` when so many lines of dit_accel have run, wherever that is.

    But at a ``with``, where Python lets no signal in: the end of a block is traced as its first line once more, and an
    exception there would leave a lock locked.
    """
    left = [number]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0 and not _line_of(frame).startswith("with "):
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _line_of(frame: FrameType) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


def _failing(owner: Any, name: str, fail: Callable[[], None]) -> Callable[[], None]:
    """Has a method of ``owner`` call ``fail`` first; returns the removal."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def failing(*args: Any, **kwargs: Any) -> Any:
        fail()
        return original(*args, **kwargs)

    setattr(owner, name, failing)
    return lambda: delattr(owner, name)


def in_thread(function: Callable[[], Any]) -> Any:
    """What the function gives, or raises, in a thread of its own."""
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            found["result"] = function()
        except BaseException as error:  # handed over, whatever it is
            found["error"] = error

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    if "error" in found:
        raise found["error"]
    return found["result"]


def in_inference_mode(function: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return function()
