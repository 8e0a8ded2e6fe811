"""Which pipeline calls a denoiser, and whether it may now.

diffusers does not tell a denoiser who calls it, and several pipelines may share one, each with a scheduler of its own.
So the stack is asked: for the frames of ``__call__`` of a pipeline, in this thread and in the others.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from diffusers import ConfigMixin
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..errors import ConcurrentUseError

# Held while no garbage may be collected: else one thread would allow it while another one needs that there is none.
_NO_COLLECTION = threading.Lock()


class Caller(NamedTuple):
    """A call of a pipeline that is running; ``key`` tells it from all others that are."""

    pipe: Any
    key: int


def calls_here() -> list[Caller]:
    """The calls of pipelines that this thread is in, the innermost first."""
    return list(_calls(sys._getframe(1), is_here=True))


def calls_elsewhere() -> list[Caller]:
    """The calls of pipelines that other threads are in."""
    here = threading.get_ident()
    return [call for ident, frame in _frames().items() if ident != here for call in _calls(frame, is_here=False)]


def _frames() -> dict[int, FrameType]:
    """The innermost frame of every thread.

    CPython before 3.12 holds the lock of its list of threads meanwhile, and a garbage collection that frees a
    `threading.local` then waits for that lock for ever. So none may begin.
    """
    with _NO_COLLECTION:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if was_enabled:
                gc.enable()


def _calls(frame: FrameType | None, *, is_here: bool) -> Iterator[Caller]:
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            found = _self_of(frame, is_here=is_here)
            if isinstance(found, ConfigMixin) and hasattr(found, "scheduler"):  # also a modular pipeline
                yield Caller(found, id(frame))
        frame = frame.f_back


def _self_of(frame: FrameType, *, is_here: bool) -> Any:
    """``self`` of a method that is running; ``is_here``: in this thread.

    CPython before 3.13 copies all locals to tell one, and keeps the copy with the frame: noise predictions and latents
    of the last step would be held while the VAE decodes. So the copy is emptied, if nobody else may be looking at it.
    """
    values: Any = frame.f_locals
    found = values.get("self")
    # Referred to by the frame, by the name here and by the argument: the method itself has not asked for its locals.
    if is_here and isinstance(values, dict) and frame.f_trace is None and sys.getrefcount(values) == 3:
        values.clear()
    return found


def refuse_running_elsewhere(denoisers: Iterable[nn.Module], what: str) -> None:
    """Raise `ConcurrentUseError` if another thread is in a call of a pipeline with one of ``denoisers``.

    Args:
        denoisers: without compile or distributed wrappers.
        what: what cannot be done meanwhile.
    """
    wanted = set(map(id, denoisers))
    for call in calls_elsewhere():
        if any(isinstance(part, nn.Module) and id(unwrap_module(part)) in wanted for part in vars(call.pipe).values()):
            raise ConcurrentUseError(
                f"{what} was asked for while another thread is in a call of {type(call.pipe).__name__}, whose video "
                "would be neither the one nor the other. Wait until that call is over."
            )


@dataclass
class _Grid:
    """The timesteps that a scheduler has now, and the calls that use them.

    Args:
        timesteps: a new tensor at every ``set_timesteps``.
        user: key of the call that used them last.
        ousted: keys of calls that have lost the scheduler to another one.
        is_spoiled: two calls were at it at the same time.
    """

    timesteps: Any
    user: int
    ousted: set[int]
    is_spoiled: bool = False


class Callers:
    """Finds the pipeline that calls, and refuses calls that get in each other's way.

    A scheduler holds the state of one call. Two at the same time on one scheduler, or on one pipeline, are wrong in
    diffusers already, and nothing says so; here both are refused.

    Args:
        owner: the pipeline to which calls belong that come from no pipeline, but from a loop of the user's own.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._has_loops = False
        self._threads: set[int] = set()  # that have ever called
        self._grids: WeakKeyDictionary[Any, _Grid] = WeakKeyDictionary()

    def enter(self) -> tuple[Any, bool]:
        """A denoiser is called now.

        Returns:
            The pipeline that calls, and whether its scheduler has new timesteps since the call before.

        Raises:
            ConcurrentUseError: another call uses the same scheduler or pipeline.
        """
        here = calls_here()
        self._has_loops |= not here
        self._threads.add(threading.get_ident())
        pipe, key = here[0] if here else (self._owner, -threading.get_ident())
        scheduler = pipe.scheduler
        timesteps, grid = getattr(scheduler, "timesteps", None), self._grids.get(scheduler)
        is_new = grid is None or grid.timesteps is not timesteps
        if grid is None or is_new:
            before = set() if grid is None else {grid.user, *grid.ousted}
            grid = self._grids[scheduler] = _Grid(timesteps, key, before & {call.key for call in here[1:]})
        elif grid.user != key:
            if grid.user < 0:  # a loop has no frame that ends; if it goes on, it is told
                grid.ousted.add(grid.user)
            grid.user = key
        if any(call.pipe is pipe or call.pipe.scheduler is scheduler for call in self._calls_elsewhere()):
            grid.is_spoiled = True
        if grid.is_spoiled or key in grid.ousted:
            raise _concurrent_use(pipe)
        return pipe, is_new

    def busy(self) -> list[Any]:
        """The pipelines whose calls are running, or may be: whether a loop goes on cannot be seen."""
        loops = [self._owner] if self._has_loops else []
        return [*loops, *(call.pipe for call in (*calls_here(), *self._calls_elsewhere()))]

    def _calls_elsewhere(self) -> list[Caller]:
        """Those of other threads; nothing is looked up as long as one thread calls alone."""
        return calls_elsewhere() if len(self._threads) > 1 else []


def _concurrent_use(pipe: Any) -> ConcurrentUseError:
    return ConcurrentUseError(
        f"Two calls that use one {type(pipe.scheduler).__name__} ran at the same time; one of them is of this "
        f"{type(pipe).__name__}, in thread {threading.current_thread().name!r}. A scheduler holds the state of one "
        "call, so neither video would be right. Hold a lock around each call, or give each thread a copy.copy(pipe) "
        "with a scheduler and a VAE of its own (copy.deepcopy); they may share the denoiser, which stays accelerated."
    )
