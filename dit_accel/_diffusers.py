"""The seam: the only file that touches diffusers' internals.

What hangs on a pipeline, and why in this form: torch-native hooks on the denoiser (they survive offload, compile and
context parallelism), a wrapper around the innermost callable of every block's forward chain (diffusers' own hooks may be
added and removed outside of it in any order), and an instance override of ``cache_context`` (it carries branch and step).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .errors import AlreadyAcceleratedError, UnsupportedPipelineError
from .specs import BlockSpec

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Undo = Callable[[], None]
Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One forward of a denoiser: which, for which CFG branch, at which step of which trajectory."""

    denoiser: str
    branch: str
    step: int
    num_steps: int
    trajectory: int


class CallObserver(Protocol):
    """Told when a denoiser's forward begins and ends."""

    def begin(self, call: DenoiserCall) -> None: ...

    def end(self) -> None: ...


class BlockRunner(Protocol):
    """Runs, or replaces, block ``index`` given its original forward."""

    def run_block(self, index: int, original: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


def denoisers_of(pipe: DiffusionPipeline, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """The denoisers that are present, by attribute name, without compile or distributed wrappers."""
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: unwrap_module(module) for name, module in found.items() if module is not None}


def refuse_native_cache(pipe: DiffusionPipeline, denoisers: dict[str, nn.Module]) -> None:
    """Raise `AlreadyAcceleratedError` if diffusers' own cache is enabled on a denoiser."""
    for name, module in denoisers.items():
        if getattr(module, "is_cache_enabled", False):
            raise AlreadyAcceleratedError(
                f"{type(pipe).__name__}.{name} has a diffusers cache enabled. "
                f"Call pipe.{name}.disable_cache() before enable_acceleration."
            )


class StepTracker:
    """Step and trajectory of each denoiser call, taken from diffusers; calls are never counted.

    A new ``scheduler.timesteps`` tensor (every ``set_timesteps`` makes one) or a step that goes backwards starts a new
    trajectory. The step comes from ``cache_context`` or from ``scheduler.step_index``. One tracker serves all denoisers
    of a pipeline.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._pipe = pipe
        self._timesteps: Tensor | None = None
        self._trajectory = -1
        self._step = 0

    def observe(self, denoiser: str, context: dict[str, Any]) -> DenoiserCall:
        """Identify the call that begins now; ``context`` is what the pipeline passed to ``cache_context``."""
        scheduler = self._pipe.scheduler
        step = context.get("step_index")
        if step is None and hasattr(scheduler, "step_index"):
            step = scheduler.step_index or 0  # None before the first scheduler step
        if step is None:
            raise UnsupportedPipelineError(
                f"The step of {type(self._pipe).__name__} with {type(scheduler).__name__} cannot be told: the pipeline "
                "passes none to cache_context and the scheduler has no step_index. Use a flow-matching scheduler."
            )
        if scheduler.timesteps is not self._timesteps or step < self._step:
            self._timesteps = scheduler.timesteps
            self._trajectory += 1
        self._step = step
        num_steps = context.get("num_inference_steps") or len(scheduler.timesteps)
        return DenoiserCall(denoiser, context.get("name", "default"), step, num_steps, self._trajectory)


def observe_calls(name: str, denoiser: nn.Module, tracker: StepTracker, observer: CallObserver) -> Undo:
    """Report every forward of ``denoiser`` to ``observer``; returns the removal."""
    context: dict[str, Any] = {}
    was_own = "cache_context" in vars(denoiser)
    original = denoiser.cache_context

    @contextlib.contextmanager
    def cache_context(branch: str, **kwargs: Any) -> Iterator[None]:
        context.update(kwargs, name=branch)
        try:
            with original(branch, **kwargs):
                yield
        finally:
            context.clear()

    denoiser.cache_context = cache_context
    before = denoiser.register_forward_pre_hook(lambda module, args: observer.begin(tracker.observe(name, context)))
    after = denoiser.register_forward_hook(lambda module, args, output: observer.end())

    def undo() -> None:
        before.remove()
        after.remove()
        if was_own:
            denoiser.cache_context = original
        else:
            del denoiser.cache_context

    return undo


class OutputTape:
    """The denoiser outputs of a trajectory, by (denoiser, branch, step): recorded once, replayed in later runs.

    Replaying the steps before ``replay_until`` instead of computing them brings latents *and* scheduler history to that
    step exactly as the recorded run had them, with no knowledge of the pipeline's loop or of the scheduler.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.replay_until = 0
        self._call: DenoiserCall | None = None

    def begin(self, call: DenoiserCall) -> None:
        """A forward begins (see `CallObserver`)."""
        self._call = call

    def end(self) -> None:
        """A forward is over (see `CallObserver`)."""
        self._call = None

    def install(self, name: str, denoiser: nn.Module, tracker: StepTracker) -> Undo:
        """Put the tape around the forward of ``denoiser``; returns the removal."""
        stop_observing = observe_calls(name, denoiser, tracker, self)
        was_own = "forward" in vars(denoiser)
        original: Forward = denoiser.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            assert self._call is not None, "the forward hook set it"
            if kwargs.get("return_dict", True):
                raise UnsupportedPipelineError(f"{name} is not called with return_dict=False; its outputs cannot be taped.")
            key = f"{self._call.denoiser}/{self._call.branch}/{self._call.step:04d}"
            if self._call.step < self.replay_until:
                return (self.outputs[key],)
            output = original(*args, **kwargs)
            self.outputs.setdefault(key, output[0])
            return output

        denoiser.forward = forward

        def undo() -> None:
            if was_own:
                denoiser.forward = original
            else:
                del denoiser.forward
            stop_observing()

        return undo


def find_blocks(name: str, denoiser: nn.Module, spec: BlockSpec) -> list[nn.Module]:
    """The denoiser's blocks in execution order."""
    blocks = [block for attribute in spec.lists for block in getattr(denoiser, attribute, ())]
    if not blocks:
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has no blocks under {', '.join(spec.lists)}; its specification expects them."
        )
    return blocks


def stream_positions(block: nn.Module, streams: tuple[str, ...]) -> tuple[int, ...]:
    """Position of each stream among the parameters of the block's forward (without ``self``)."""
    names = list(inspect.signature(type(unwrap_module(block)).forward).parameters)[1:]
    missing = [name for name in streams if name not in names]
    if missing:
        raise UnsupportedPipelineError(
            f"{type(block).__name__}.forward has no argument {missing}; its specification names them. It has: {names}."
        )
    return tuple(names.index(name) for name in streams)


def wrap_block(block: nn.Module, index: int, runner: BlockRunner) -> Undo:
    """Send the innermost forward of ``block`` through ``runner``; returns the removal."""
    owner, attribute = _innermost(block)
    was_own = attribute in vars(owner)
    original: Forward = getattr(owner, attribute)

    # Not recursive: the block inside stays compiled, and regional compilation keeps one graph for all blocks.
    @torch.compiler.disable(recursive=False)
    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return runner.run_block(index, original, args, kwargs)

    setattr(owner, attribute, forward)

    def undo() -> None:
        references = getattr(getattr(block, "_diffusers_hook", None), "_fn_refs", [])
        for holder in (block, *references):
            for name in ("forward", "original_forward", "_old_forward"):
                if vars(holder).get(name) is not forward:
                    continue
                if holder is block and name == "forward" and not was_own:
                    del block.forward
                else:
                    setattr(holder, name, original)

    return undo


def _innermost(block: nn.Module) -> tuple[Any, str]:
    """Owner and attribute of the callable at the bottom of the forward chain: diffusers' hooks, accelerate's, or none."""
    references = getattr(getattr(block, "_diffusers_hook", None), "_fn_refs", [])
    if references:
        return references[0], "forward" if references[0].original_forward is None else "original_forward"
    return block, "_old_forward" if "_old_forward" in vars(block) else "forward"


class Stopwatch:
    """Time from the first ``start`` to the last ``lap``: events on a GPU (no synchronisation until read), wall elsewhere."""

    def __init__(self) -> None:
        self._first: Any = None
        self._last: Any = None

    def start(self, device: torch.device) -> None:
        if self._first is None:
            self._first = self._mark(device)

    def lap(self, device: torch.device) -> None:
        self._last = self._mark(device)

    @property
    def seconds(self) -> float:
        """Seconds between the marks; 0 before the first lap."""
        if self._first is None or self._last is None:
            return 0.0
        if isinstance(self._first, float):
            return float(self._last - self._first)
        self._last.synchronize()
        return float(self._first.elapsed_time(self._last)) / 1000

    @staticmethod
    def _mark(device: torch.device) -> Any:
        if device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class DenoiseClock:
    """``with DenoiseClock(pipe) as clock: pipe(...)`` -> ``clock.seconds`` of the denoising loop, text and VAE excluded.

    It runs from the start of the first denoiser call to the end of the last one, accelerated or not, so ratios are fair.
    """

    def __init__(self, pipe: DiffusionPipeline, denoisers: tuple[str, ...] = ("transformer", "transformer_2")) -> None:
        self._denoisers = denoisers_of(pipe, denoisers)
        self._watch = Stopwatch()
        self._handles: list[Any] = []

    def __enter__(self) -> DenoiseClock:
        for module in self._denoisers.values():
            device = next(module.parameters()).device
            self._handles += [
                module.register_forward_pre_hook(lambda *_, device=device: self._watch.start(device), prepend=True),
                module.register_forward_hook(lambda *_, device=device: self._watch.lap(device)),
            ]
        return self

    def __exit__(self, *exc: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def seconds(self) -> float:
        """Wall seconds of the last denoising loop inside the ``with``."""
        return self._watch.seconds
