"""`Installation`: one pipeline on which methods are being installed, and all that they have in common there.

What is installed hangs on the denoisers, and serves every pipeline that shares them. What a run carries from step to
step is in a `Run`, one a pipeline, so that pipelines may run at the same time in threads of their own.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, proxy

from torch import Tensor

from ._diffusers import Callers, CallObserver, denoisers_of, observe_calls
from .run_record import RunRecord
from .running import Running
from .specs import PipelineSpec
from .step_tracker import DenoiserCall, StepTracker

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Run:
    """The state of one pipeline's run, on all its denoisers; the next run of the pipeline begins it anew.

    Args:
        pipe: the pipeline; it is not kept alive.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.tracker, self.record = StepTracker(proxy(pipe)), RunRecord()
        self.observers: dict[str, list[CallObserver]] = {}
        self.peers: defaultdict[Any, list[Any]] = defaultdict(list)  # method -> its observers, one a denoiser
        self.attention_layers: dict[str, Sequence[Any]] = {}  # denoiser -> its `SparseLayer` s

    def begin(self, denoiser: str, call: DenoiserCall | None) -> None:
        """A forward of ``denoiser`` begins."""
        for observer in self.observers[denoiser]:
            observer.begin(call)

    def end(self, denoiser: str, output: Any) -> Any:
        """It is over; each observer sees the output as the ones before it have left it."""
        replaced = None
        for observer in self.observers[denoiser]:
            result = observer.end(output if replaced is None else replaced)
            replaced = replaced if result is None else result
        return replaced

    def release(self) -> None:
        """Forget the trajectory and free all that is kept of it."""
        for kept in self.peers.values():
            for observer in kept:
                observer.release()


class Installation:
    """What an installer gets: the pipeline with its spec, and where to leave observers and removals.

    Args:
        pipe: a pipeline that ``spec`` covers.
        spec: where its denoisers and blocks are.
        undo: receives the removals; closing it restores the pipeline exactly.
    """

    def __init__(self, pipe: DiffusionPipeline, spec: PipelineSpec, undo: ExitStack) -> None:
        self.pipe, self.spec, self.undo = pipe, spec, undo
        self.denoisers = denoisers_of(pipe, spec.denoisers)
        self.attention_layers: dict[str, int] = {}  # denoiser -> number of layers with sparse attention
        self._makers: dict[str, list[Callable[[Run], CallObserver]]] = {name: [] for name in self.denoisers}
        self._callers = Callers(pipe)
        self._runs: WeakKeyDictionary[DiffusionPipeline, Run] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def observe_runs(self, denoiser: str, make: Callable[[Run], CallObserver]) -> None:
        """Have an observer of each run told of every forward of the denoiser, after those that were added before.

        One with a ``release`` method belongs in ``run.peers``.
        """
        self._makers[denoiser].append(make)

    def observe(self, denoiser: str, observer: CallObserver) -> None:
        """The same with one observer for all runs, where there is only one at a time."""
        self.observe_runs(denoiser, lambda _: observer)

    def start(self) -> None:
        """Watch the denoisers from now on."""
        self.undo.callback(self.release)
        for name, denoiser in self.denoisers.items():
            router = _Router(self, name)
            ignored = self.spec.denoisers[name].compute_when
            self.undo.callback(observe_calls(name, denoiser, router, router, ignored))

    def run_of(self, pipe: DiffusionPipeline) -> Run:
        """The run of ``pipe``, made at the first time."""
        with self._lock:
            run = self._runs.get(pipe)
            if run is None:
                run = self._runs[pipe] = Run(pipe)
                for name, makers in self._makers.items():
                    run.observers[name] = [make(run) for make in makers]
        return run

    def enter(self) -> Run:
        """A denoiser is called: the run that the call belongs to.

        Raises:
            ConcurrentUseError: another call uses the same scheduler or pipeline.
        """
        with self._lock:
            pipe, is_new = self._callers.enter()
        if is_new:
            self.release_idle()
        return self.run_of(pipe)

    def release_idle(self) -> None:
        """Free what is kept of runs that were aborted."""
        busy = self._callers.busy()
        self._release(lambda pipe: not any(pipe is other for other in busy))

    def release(self) -> None:
        """Free what is kept of all runs."""
        self._release(lambda _: True)

    def _release(self, is_wanted: Callable[[Any], bool]) -> None:
        with self._lock:
            runs = [run for pipe, run in self._runs.items() if is_wanted(pipe)]
        for run in runs:
            run.release()


class _Router:
    """Tracks and observes a denoiser for all runs: passes each call on to the run of the pipeline that makes it."""

    def __init__(self, installation: Installation, denoiser: str) -> None:
        self._installation, self._denoiser = installation, denoiser
        self._running: Running[Run] = Running()

    def observe(self, denoiser: str, context: dict[str, Any], timestep: Tensor | None = None) -> DenoiserCall:
        run = self._enter()
        return run.tracker.observe(denoiser, context, timestep)

    def begin(self, call: DenoiserCall | None) -> None:
        run = self._running.current()
        if call is None or run is None:  # one to leave alone was not tracked
            run = self._enter()
        run.begin(self._denoiser, call)

    def end(self, output: Any) -> Any:
        run = self._running.current()
        return None if run is None else run.end(self._denoiser, output)

    def _enter(self) -> Run:
        run = self._installation.enter()
        self._running.enter(run)
        return run
