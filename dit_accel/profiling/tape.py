"""`OutputTape`: what a denoiser gave in a full run, to be given again where a rollout needs no compute."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from .._diffusers import Forward, Undo, observe_calls, wrap_forward
from ..errors import UnsupportedPipelineError
from ..step_tracker import DenoiserCall, StepTracker


class OutputTape:
    """The denoiser outputs of a trajectory, by (denoiser, branch, step): recorded once, replayed in later runs.

    Replaying the steps of ``replayed`` instead of computing them brings latents *and* scheduler history to the next
    step exactly as the recorded run had them, with no knowledge of the pipeline's loop or of the scheduler.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.replayed: Collection[int] = ()
        self._call: DenoiserCall | None = None

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins (see `CallObserver`)."""
        self._call = call

    def end(self, output: Any) -> None:
        """A forward is over (see `CallObserver`)."""
        self._call = None

    def install(self, name: str, denoiser: nn.Module, tracker: StepTracker) -> Undo:
        """Put the tape around the forward of ``denoiser``; returns the removal."""
        stop_observing = observe_calls(name, denoiser, tracker, self)

        def taped(original: Forward) -> Forward:
            return functools.partial(self._forward, name, original)

        restore = wrap_forward(denoiser, taped)

        def undo() -> None:
            restore()
            stop_observing()

        return undo

    def _forward(self, name: str, original: Forward, *args: Any, **kwargs: Any) -> Any:
        if self._call is None:  # one to leave alone
            return original(*args, **kwargs)
        if kwargs.get("return_dict", True):
            raise UnsupportedPipelineError(
                f"{name} is not called with return_dict=False; its outputs cannot be taped."
            )
        key = f"{self._call.denoiser}/{self._call.branch}/{self._call.step:04d}"
        if self._call.step in self.replayed:
            return (self.outputs[key],)
        output = original(*args, **kwargs)
        self.outputs.setdefault(key, output[0])
        return output
