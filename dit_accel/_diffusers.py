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
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from diffusers.hooks.layer_skip import TransformerBlockSkipHook
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .errors import AlreadyAcceleratedError, UnsupportedPipelineError
from .specs import BlockSpec
from .step_tracker import DenoiserCall, StepTracker
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Undo = Callable[[], None]
Forward = Callable[..., Any]
F = TypeVar("F", bound=Forward)


def eager(function: F) -> F:
    """Keep the function, and all that it calls, out of compiled graphs."""
    return torch.compiler.disable(function)


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


def refuse_native_cache(pipe: DiffusionPipeline, denoisers: dict[str, nn.Module]) -> None:
    """Raise `AlreadyAcceleratedError` if diffusers' own cache is enabled on a denoiser."""
    for name, module in denoisers.items():
        if getattr(module, "is_cache_enabled", False):
            raise AlreadyAcceleratedError(
                f"{type(pipe).__name__}.{name} has a diffusers cache enabled. "
                f"Call pipe.{name}.disable_cache() before enable_acceleration."
            )


def observe_calls(
    name: str, denoiser: Any, tracker: StepTracker, observer: CallObserver, ignored_when: tuple[str, ...] = ()
) -> Undo:
    """Report every forward of ``denoiser`` to ``observer``; returns the removal.

    Args:
        name: attribute of the denoiser on its pipeline.
        denoiser: the model.
        tracker: the pipeline's.
        observer: told of every forward; what its ``end`` returns, if not None, replaces the output.
        ignored_when: see `BlockSpec.compute_when`; of such a forward the observer is told None.
    """
    context: dict[str, Any] = {}
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
        observer.begin(None if is_ignored else tracker.observe(name, context, timestep))

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


def _override_cache_context(denoiser: Any, context: dict[str, Any]) -> Undo:
    """Have the denoiser's ``cache_context`` fill ``context`` while it lasts."""
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


def rank_sum(denoiser: nn.Module, values: Tensor) -> Tensor:
    """``values`` added up over the ranks among which context parallelism divides the denoiser's sequence now."""
    config = getattr(getattr(denoiser, "_parallel_config", None), "context_parallel_config", None)
    if config is not None:
        torch.distributed.all_reduce(values, group=config._flattened_mesh.get_group())
    return values


def is_bypassed(block: nn.Module) -> bool:
    """Whether a guider (skip-layer guidance) has the block skipped in this very call: its forward is not reached."""
    registry = vars(unwrap_module(block)).get("_diffusers_hook")
    return registry is not None and any(
        isinstance(hook, TransformerBlockSkipHook) and hook.dropout == 1.0 for hook in registry.hooks.values()
    )


def find_blocks(name: str, denoiser: nn.Module, spec: BlockSpec) -> list[nn.Module]:
    """The denoiser's blocks in execution order."""
    lists = [list(_attribute(denoiser, path, ())) for path in spec.lists]
    if spec.is_interleaved and len({len(blocks) for blocks in lists}) > 1:
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has {', '.join(str(len(blocks)) for blocks in lists)} blocks under "
            f"{', '.join(spec.lists)}; lists that take turns must be equally long."
        )
    if spec.is_interleaved:
        lists = [list(turn) for turn in zip(*lists, strict=True)]
    blocks = [block for group in lists for block in group]
    if not blocks:
        raise UnsupportedPipelineError(
            f"{name} ({type(denoiser).__name__}) has no blocks under {', '.join(spec.lists)}; its specification "
            "expects them."
        )
    return blocks


def _attribute(owner: Any, path: str, default: Any) -> Any:
    """``owner.a.b`` for the path ``"a.b"``."""
    for name in path.split("."):
        owner = getattr(owner, name, default)
    return owner


def stream_positions(block: nn.Module, streams: tuple[str, ...]) -> tuple[int, ...]:
    """Position of each stream among the parameters of the block's forward (without ``self``)."""
    names = list(inspect.signature(type(unwrap_module(block)).forward).parameters)[1:]
    missing = [name for name in streams if name not in names]
    if missing:
        raise UnsupportedPipelineError(
            f"{type(block).__name__}.forward has no argument {missing}; its specification names them. It has: {names}."
        )
    return tuple(names.index(name) for name in streams)


def wrap_forward(module: nn.Module, make: Callable[[Forward], Forward]) -> Undo:
    """Put ``make(original)`` in place of the innermost forward of ``module``.

    Returns the removal, which is right whatever was hooked since.
    """
    owner, attribute = _innermost(module)
    was_own = attribute in vars(owner)
    original: Forward = getattr(owner, attribute)
    # Not recursive: what is inside stays compiled, and regional compilation keeps one graph for all blocks.
    forward = torch.compiler.disable(functools.wraps(original)(make(original)), recursive=False)
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
