"""`ResidualSampler`: inner products of a full run's residuals, from a sample of their elements."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .._diffusers import Forward, Undo, wrap_forward
from ..cache.block_range import BlockRange
from ..cache.state import Streams
from ..specs import BlockSpec
from ..step_tracker import DenoiserCall

MAX_ELEMENTS = 1 << 18  # of each residual: the inner products are means, and settle long before


class ResidualSampler:
    """Observes the denoisers of one full run and keeps evenly spaced elements of every residual."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[int, Tensor]] = {}
        self._call: DenoiserCall | None = None
        self._entry: Streams = ()
        self.times: list[float] = []

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins (see `CallObserver`)."""
        self._call = call
        if call is not None and call.times is not None and not self.times:
            self.times = call.times()

    def end(self, output: Any) -> None:
        """A forward is over (see `CallObserver`)."""
        self._call, self._entry = None, ()

    def install(self, name: str, denoiser: nn.Module, spec: BlockSpec) -> Undo:
        """Watch what enters the first and leaves the last block; returns the removal."""
        blocks = BlockRange.of(name, denoiser, spec)
        undo_first = wrap_forward(blocks.blocks[blocks.first], functools.partial(self._first, blocks))
        undo_last = wrap_forward(blocks.blocks[blocks.last], self._last)

        def undo() -> None:
            undo_last()
            undo_first()

        return undo

    def _first(self, blocks: BlockRange, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            # Copied: a block may work in place.
            self._entry = tuple(None if t is None else t.clone() for t in blocks.inputs(blocks.first, args, kwargs))
            return original(*args, **kwargs)

        return forward

    def _last(self, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if self._call is not None:
                exits = output if isinstance(output, tuple) else (output,)
                self._keep(self._call, exits)
            return output

        return forward

    def _keep(self, call: DenoiserCall, exits: Streams) -> None:
        residuals = [
            exit_ - entry
            for exit_, entry in zip(exits, self._entry, strict=False)  # some blocks return more than their streams
            if exit_ is not None and entry is not None and exit_.shape == entry.shape
        ]
        sample = [r.flatten()[:: -(-r.numel() // MAX_ELEMENTS)].detach().to("cpu", torch.float32) for r in residuals]
        if sample:
            self._samples.setdefault(f"{call.denoiser}/{call.branch}", {})[call.step] = torch.cat(sample)

    def gram(self, num_steps: int) -> tuple[Tensor, int] | None:
        """[num_steps, num_steps] sums of products, and how many elements each is a sum of.

        None if no branch has run at every step with residuals of one shape: they cannot be compared then. A
        model that hands over to another denoiser midway counts as one, as its residuals are of one shape.
        """
        by_branch: dict[str, dict[int, Tensor]] = {}
        for key, samples in self._samples.items():
            by_branch.setdefault(key.partition("/")[2], {}).update(samples)
        total, count = torch.zeros(num_steps, num_steps, dtype=torch.float64), 0
        for samples in by_branch.values():
            if len(samples) == num_steps and len({sample.numel() for sample in samples.values()}) == 1:
                rows = torch.stack([samples[step] for step in range(num_steps)]).double()
                total += rows @ rows.T
                count += rows.shape[1]
        return (total, count) if count else None
