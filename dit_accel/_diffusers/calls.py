"""A denoiser's calls: watched by torch-native hooks, which survive offload, compile and context parallelism."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..step_tracker import DenoiserCall
from .blocks import Undo

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

F = TypeVar("F", bound=Callable[..., Any])


def eager(function: F) -> F:
    """Keep the function, and all that it calls, out of compiled graphs."""
    return torch.compiler.disable(function)


class CallTracker(Protocol):
    """Says which call of which step it is that begins; see `StepTracker`."""

    def observe(self, denoiser: str, context: dict[str, Any], timestep: Tensor | None = None) -> DenoiserCall:
        """Identify the call that begins now."""


class CallObserver(Protocol):
    """Told when a denoiser's forward begins and ends."""

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins; None if it is one to leave alone."""

    def end(self, output: Any) -> Any:
        """The forward is over (not called if it raised). Returns what to give out instead of ``output``, or None."""


def denoisers_of(pipe: DiffusionPipeline, names: Iterable[str]) -> dict[str, nn.Module]:
    """The denoisers that are present, by attribute name, without compile or distributed wrappers."""
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: unwrap_module(module) for name, module in found.items() if module is not None}


def observe_calls(
    name: str, denoiser: Any, tracker: CallTracker, observer: CallObserver, ignored_when: tuple[str, ...] = ()
) -> Undo:
    """Report every forward of ``denoiser`` to ``observer``; returns the removal.

    Args:
        name: attribute of the denoiser on its pipeline.
        denoiser: the model.
        tracker: that of the pipeline, or of all that share the denoiser.
        observer: told of every forward; what its ``end`` returns, if not None, replaces the output.
        ignored_when: see `BlockSpec.compute_when`; of such a forward the observer is told None.
    """
    context = _Context()
    restore = _override_cache_context(denoiser, context) if hasattr(denoiser, "cache_context") else None
    parameters = list(inspect.signature(type(denoiser).forward).parameters)[1:]
    timestep_name = next((p for p in parameters if "timestep" in p), "timestep")
    positions = {p: index for index, p in enumerate(parameters)}

    def given(parameter: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        index = positions.get(parameter, len(args))
        return args[index] if index < len(args) else kwargs.get(parameter)

    def is_set(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        parameter, _, key = path.partition(".")
        value = given(parameter, args, kwargs)
        value = (value or {}).get(key) if key else value
        return value is not None and value is not False

    # Kept out of the graph of a compiled denoiser, which would otherwise be compiled anew for every step.
    @eager
    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_ignored = bool(ignored_when) and any(is_set(path, args, kwargs) for path in ignored_when)
        timestep = given(timestep_name, args, kwargs)
        observer.begin(None if is_ignored else tracker.observe(name, context.given, timestep))

    @eager
    def end(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return observer.end(output)

    before = denoiser.register_forward_pre_hook(begin, with_kwargs=True)
    after = denoiser.register_forward_hook(end)

    def undo() -> None:
        before.remove()
        after.remove()
        if restore:
            restore()

    return undo


class _Context(threading.local):
    """What was passed to the ``cache_context`` that this thread is in, empty without."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}


def _override_cache_context(denoiser: Any, context: _Context) -> Undo:
    """Have the denoiser's ``cache_context`` fill ``context`` while it lasts."""
    was_own = "cache_context" in vars(denoiser)
    original = denoiser.cache_context

    @contextlib.contextmanager
    def cache_context(branch: str, **kwargs: Any) -> Iterator[None]:
        context.given = {**kwargs, "name": branch}
        try:
            with original(branch, **kwargs):
                yield
        finally:
            context.given = {}

    def undo() -> None:
        if was_own:
            denoiser.cache_context = original
        else:
            del denoiser.cache_context

    denoiser.cache_context = cache_context
    return undo


def output_tensors(output: Any) -> list[Tensor]:
    """The tensors of a denoiser's output: a tensor, tuples or lists of them, or one of diffusers' output classes."""
    if isinstance(output, Tensor):
        return [output]
    values = output.to_tuple() if isinstance(output, BaseOutput) else output
    return [t for value in values for t in output_tensors(value)] if isinstance(values, (tuple, list)) else []


def replace_tensors(output: Any, supply: Iterator[Tensor | None]) -> Any:
    """The same kind of output with the tensors of ``supply`` in it, in the order of `output_tensors`."""
    if isinstance(output, Tensor):
        return next(supply)
    if isinstance(output, BaseOutput):
        return type(output)(**{key: replace_tensors(value, supply) for key, value in output.items()})
    if isinstance(output, (tuple, list)):
        return type(output)(replace_tensors(value, supply) for value in output)
    return output
