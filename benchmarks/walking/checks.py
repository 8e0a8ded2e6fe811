"""What `random_walk` checks: what must hold, and what dit_accel has left on a pipeline, wherever it may hang."""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

import dit_accel

HOME = str(Path(dit_accel.__file__).parent)
# What only an accelerated pipeline has; the handle and what it says stay for as long as the user keeps them.
RUNTIME = ("dit_accel.cache.", "dit_accel.sparse.layers", "dit_accel.installation", "dit_accel._diffusers")
FORWARDS = ("forward", "original_forward", "_old_forward", "__call__", "cache_context", "__reduce_ex__")


def leftovers(pipe: Any) -> list[str]:
    """Where something of dit_accel hangs on a part of the pipeline."""
    found = []
    for name, component in pipe.components.items():
        owners = component.named_modules() if isinstance(component, nn.Module) else [("", component)]
        for path, owner in owners:
            found += [f"{name}.{path}: {place}" for place, value in _places(owner) if _is_ours(value)]
    return [*found, *(f"pipe: {key}" for key, value in vars(pipe).items() if _is_ours(value) or "dit_accel" in key)]


def _places(owner: Any) -> Iterator[tuple[str, Any]]:
    for key, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
        if "dit_accel" in key:
            yield key, leftovers
        elif "_hooks" in key and isinstance(value, dict):
            yield from ((key, hook) for hook in value.values())
        elif key not in ("_parameters", "_buffers", "_modules"):
            yield key, value
    registry = vars(owner).get("_diffusers_hook") if hasattr(owner, "__dict__") else None
    for reference in getattr(registry, "_fn_refs", ()):
        yield from ((f"hook reference: {key}", value) for key, value in vars(reference).items())


def _is_ours(value: Any, depth: int = 4) -> bool:
    """Whether a function, or one that it wraps, is of dit_accel, or an object's class is."""
    if value is leftovers or type(value) is not getattr(value, "__class__", type(value)):  # a rerouted processor
        return True
    if isinstance(value, functools.partial):
        return _is_ours(value.func, depth - 1)
    if isinstance(value, types.MethodType):
        return _is_ours(value.__func__, depth) or _of_ours(type(value.__self__))
    if isinstance(value, types.FunctionType):
        inside = [cell.cell_contents for cell in value.__closure__ or () if depth and _is_filled(cell)]
        return value.__code__.co_filename.startswith(HOME) or any(
            _is_ours(each, depth - 1) for each in inside if callable(each)
        )
    return _of_ours(type(value))


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _of_ours(kind: type) -> bool:
    module = str(kind.__module__)
    return module.startswith("dit_accel.") and not module.startswith("dit_accel.pipelines.")


class Wrong(AssertionError):
    """Something did not hold."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def require_refusal(error: type[Exception], function: Callable[[], object]) -> None:
    try:
        function()
    except error:
        return
    raise Wrong(f"it was not refused with {error.__name__}")


def alive() -> list[str]:
    """Everything of a running acceleration that is not freed, in the whole process."""
    gc.collect()
    kinds = map(type, gc.get_objects())
    return sorted(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(RUNTIME))
