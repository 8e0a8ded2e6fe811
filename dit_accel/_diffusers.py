"""The seam: the only file that touches diffusers' internals.

What hangs on a pipeline, and why in this form: torch-native hooks on the denoiser (they survive offload, compile and
context parallelism), a wrapper around the innermost callable of every block's forward chain (diffusers' own hooks may
be added and removed outside of it in any order), and an instance override of ``cache_context`` (it carries branch and
step).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .errors import AlreadyAcceleratedError, UnsupportedPipelineError
from .specs import BlockSpec
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Undo = Callable[[], None]
Forward = Callable[..., Any]
F = TypeVar("F", bound=Forward)


def eager(function: F) -> F:
    """Keep the function, and all that it calls, out of compiled graphs."""
    return torch.compiler.disable(function)


def eager_shell(function: F) -> F:
    """Keep the function itself out of compiled graphs, but not what it calls."""
    return torch.compiler.disable(function, recursive=False)


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

    def begin(self, call: DenoiserCall) -> None:
        """A forward begins."""

    def end(self) -> None:
        """The forward is over; not called if it raised."""


class BlockRunner(Protocol):
    """Runs, or replaces, block ``index`` given its original forward."""

    def run_block(self, index: int, original: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the block returns."""


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
    trajectory. The step comes from ``cache_context`` or from ``scheduler.step_index``. One tracker serves all
    denoisers of a pipeline.
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
                f"The step of {type(self._pipe).__name__} with {type(scheduler).__name__} cannot be told: "
                "cache_context is given none and the scheduler has no step_index. Use a flow-matching scheduler."
            )
        if scheduler.timesteps is not self._timesteps or step < self._step:
            self._timesteps = scheduler.timesteps
            self._trajectory += 1
        self._step = step
        num_steps = context.get("num_inference_steps") or len(scheduler.timesteps)
        return DenoiserCall(denoiser, context.get("name", "default"), step, num_steps, self._trajectory)


def observe_calls(name: str, denoiser: Any, tracker: StepTracker, observer: CallObserver) -> Undo:
    """Report every forward of ``denoiser`` to ``observer``; returns the removal.

    Raises:
        UnsupportedPipelineError: the denoiser has no ``cache_context``, so nothing tells its CFG branches apart.
    """
    if not hasattr(denoiser, "cache_context"):
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has no cache_context, so its CFG branches cannot be told apart. "
            "Use a denoiser with diffusers' CacheMixin."
        )
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

    # Kept out of the graph of a compiled denoiser, which would otherwise be compiled anew for every step.
    @eager
    def begin(*_: Any) -> None:
        observer.begin(tracker.observe(name, context))

    @eager
    def end(*_: Any) -> None:
        observer.end()

    denoiser.cache_context = cache_context
    before, after = denoiser.register_forward_pre_hook(begin), denoiser.register_forward_hook(end)

    def undo() -> None:
        before.remove()
        after.remove()
        if was_own:
            denoiser.cache_context = original
        else:
            del denoiser.cache_context

    return undo


def find_blocks(name: str, denoiser: nn.Module, spec: BlockSpec) -> list[nn.Module]:
    """The denoiser's blocks in execution order."""
    blocks = [block for attribute in spec.lists for block in getattr(denoiser, attribute, ())]
    if not blocks:
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has no blocks under {', '.join(spec.lists)}; its specification "
            "expects them."
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
    return wrap_forward(block, functools.partial(runner.run_block, index))


def wrap_forward(module: nn.Module, run: Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]) -> Undo:
    """Put ``run`` around the innermost forward of ``module``; returns the removal, right whatever was hooked since."""
    owner, attribute = _innermost(module)
    was_own = attribute in vars(owner)
    original: Forward = getattr(owner, attribute)

    # Not recursive: what is inside stays compiled, and regional compilation keeps one graph for all blocks.
    @eager_shell
    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return run(original, args, kwargs)

    setattr(owner, attribute, forward)

    def undo() -> None:
        # Hooks that were added or removed meanwhile have moved the wrapper; `owner` may be out of the registry by now.
        for holder in (module, owner, *_hook_references(module)):
            for name in ("forward", "original_forward", "_old_forward"):
                if vars(holder).get(name) is not forward:
                    continue
                if holder is module and name == "forward" and not was_own:
                    del module.forward
                else:
                    setattr(holder, name, original)

    return undo


def _innermost(module: nn.Module) -> tuple[Any, str]:
    """Owner and attribute of the innermost callable: under diffusers' hooks, under accelerate's, or the forward."""
    references = _hook_references(module)
    if references:
        return references[0], "forward" if references[0].original_forward is None else "original_forward"
    return module, "_old_forward" if "_old_forward" in vars(module) else "forward"


def _hook_references(module: nn.Module) -> list[Any]:
    """diffusers' hooks on the module, innermost first."""
    return list(getattr(getattr(module, "_diffusers_hook", None), "_fn_refs", ()))


class DenoiseClock:
    """``with DenoiseClock(pipe) as clock: pipe(...)`` -> ``clock.seconds`` of the denoising loop alone.

    It runs from the start of the first denoiser call to the end of the last, accelerated or not, so ratios are fair.
    """

    def __init__(self, pipe: DiffusionPipeline, denoisers: tuple[str, ...] = ("transformer", "transformer_2")) -> None:
        self._denoisers = denoisers_of(pipe, denoisers)
        self._watch = Stopwatch()
        self._handles: list[Any] = []

    def __enter__(self) -> DenoiseClock:
        for module in self._denoisers.values():
            self._handles += [
                module.register_forward_pre_hook(lambda *_: self._watch.start(), prepend=True),
                module.register_forward_hook(lambda *_: self._watch.lap()),
            ]
        return self

    def __exit__(self, *exc: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def seconds(self) -> float:
        """Wall seconds from the first denoiser call inside the ``with`` to the end of the last."""
        return self._watch.seconds
