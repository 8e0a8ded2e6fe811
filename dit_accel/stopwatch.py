"""`Stopwatch`: how long the denoising took."""

from __future__ import annotations

import time

import torch

Mark = float | torch.cuda.Event


class Stopwatch:
    """Time from the first ``start`` to the last ``lap``, without a synchronisation until it is read.

    Marks are CUDA events once CUDA is in use, else wall time. The weights' device is not asked: offloading keeps them
    on the CPU between calls. For work on the CPU an event shows the wall time too, as its stream is idle.
    """

    def __init__(self) -> None:
        self._first: Mark | None = None
        self._last: Mark | None = None

    def start(self) -> None:
        """The first call sets the beginning, later ones change nothing."""
        if self._first is None:
            self._first = _event() if torch.cuda.is_initialized() else time.perf_counter()

    def lap(self) -> None:
        """Every call sets the end anew."""
        self._last = time.perf_counter() if isinstance(self._first, float) else _event()

    @property
    def seconds(self) -> float:
        """Seconds between the marks; 0 before the first lap."""
        if self._first is None or self._last is None:
            return 0.0
        if isinstance(self._first, float) or isinstance(self._last, float):
            return float(self._last - self._first)  # type: ignore[operator]  # both of one kind
        self._last.synchronize()
        return float(self._first.elapsed_time(self._last)) / 1000


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
