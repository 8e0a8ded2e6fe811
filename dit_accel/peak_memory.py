"""The most memory that a piece of work took on its device."""

from __future__ import annotations

import torch


class PeakMemory:
    """A context manager; afterwards ``nbytes`` is the most that torch had allocated on a CUDA device inside it.

    It is None on other devices: torch does not tell there, and the size of the process says little about one run.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self.nbytes: int | None = None

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._device.type == "cuda":
            self.nbytes = torch.cuda.max_memory_allocated(self._device)
