"""`Installation`: one pipeline on which methods are being installed, and all that they have in common there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ._diffusers import CallObserver, denoisers_of, observe_calls
from .run_record import RunRecord
from .specs import PipelineSpec
from .step_tracker import DenoiserCall, StepTracker

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Installation:
    """What an installer gets: the pipeline with its spec, the record to fill, and where to leave removals.

    Args:
        pipe: a pipeline that ``spec`` covers.
        spec: where its denoisers and blocks are.
        undo: receives the removals; closing it restores the pipeline exactly.
    """

    def __init__(self, pipe: DiffusionPipeline, spec: PipelineSpec, undo: ExitStack) -> None:
        self.pipe, self.spec, self.undo = pipe, spec, undo
        self.denoisers = denoisers_of(pipe, spec.denoisers)
        self.record = RunRecord()
        self.attention_layers: dict[str, Sequence[Any]] = {}  # denoiser -> its `SparseLayer` s
        self._observers: dict[str, list[CallObserver]] = {name: [] for name in self.denoisers}

    def observe(self, denoiser: str, observer: CallObserver) -> None:
        """Have ``observer`` told of every forward of the denoiser, after those that were added before."""
        self._observers[denoiser].append(observer)

    def start(self) -> None:
        """Watch the denoisers from now on: one tracker for all methods, so that they agree on steps and branches."""
        tracker = StepTracker(self.pipe)
        for name, observers in self._observers.items():
            observer = observers[0] if len(observers) == 1 else _Chain(observers)
            ignored = self.spec.denoisers[name].compute_when
            self.undo.callback(observe_calls(name, self.denoisers[name], tracker, observer, ignored))


class _Chain:
    """Several observers as one; each sees the output as the ones before it have left it."""

    def __init__(self, observers: list[CallObserver]) -> None:
        self._observers = observers

    def begin(self, call: DenoiserCall | None) -> None:
        for observer in self._observers:
            observer.begin(call)

    def end(self, output: Any) -> Any:
        replaced = None
        for observer in self._observers:
            result = observer.end(output if replaced is None else replaced)
            replaced = replaced if result is None else result
        return replaced
