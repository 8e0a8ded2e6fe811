"""`Running`: where what hangs on a denoiser finds the state of the run that the present thread is in."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar
from weakref import ref

T = TypeVar("T")


class Running(threading.local, Generic[T]):
    """The run, or what observes it, whose forward the present thread is in, or was in last; every thread has its own.

    ``entered`` refers to it, and does not keep it alive: what is over must be able to go, whatever threads it was in.
    """

    entered: ref[T] | None = None

    def enter(self, run: T) -> None:
        """A forward of ``run`` begins in this thread."""
        self.entered = ref(run)

    def current(self) -> T | None:
        """The one entered last; None if this thread has entered nothing, or it is gone."""
        return None if self.entered is None else self.entered()
