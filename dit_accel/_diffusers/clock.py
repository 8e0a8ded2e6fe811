"""The clock of the denoising loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..stopwatch import Stopwatch
from .calls import denoisers_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


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
