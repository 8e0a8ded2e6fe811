"""`BlockRange`: the blocks of a denoiser, which of them are cached, and the tensors that flow through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from .._diffusers import find_blocks, is_bypassed, stream_positions
from ..errors import ConfigError
from ..specs import BlockSpec
from .state import Streams


@dataclass(frozen=True, slots=True)
class BlockRange:
    """The blocks of a denoiser in execution order, and which of them are cached.

    Args:
        blocks: all of them.
        first, last: the cached range, inclusive indices.
        streams: for every block, position and name of each stream among its arguments.
        video: index of the video stream.
        unit: how many blocks lie between two that keep the stream in one layout: 1, or the number of lists that take
            turns.
    """

    blocks: tuple[nn.Module, ...]
    first: int
    last: int
    streams: tuple[tuple[tuple[int, str], ...], ...]
    video: int = 0
    unit: int = 1

    @classmethod
    def of(
        cls, name: str, denoiser: nn.Module, spec: BlockSpec, *, probe_blocks: int = 0, corrector_blocks: int = 0
    ) -> BlockRange:
        """The range of ``denoiser`` with ``probe_blocks`` before it and ``corrector_blocks`` after it.

        Of interleaved lists one block each counts as one. The range then ends in a block of the first list, because a
        residual needs entry and exit in one layout; the other lists' last blocks run in every step.

        Raises:
            ConfigError: no block is left to cache.
            UnsupportedPipelineError: the denoiser is not laid out as ``spec`` says.
        """
        blocks = find_blocks(name, denoiser, spec)
        unit = len(spec.lists) if spec.is_interleaved else 1
        total = len(blocks) // unit
        if probe_blocks + corrector_blocks >= total:
            raise ConfigError(
                f"probe_blocks={probe_blocks} and corrector_blocks={corrector_blocks} leave nothing to cache: {name} "
                f"({type(denoiser).__name__}) has {total} blocks. Their sum must be at most {total - 1}."
            )
        positions = {type(block): stream_positions(block, spec.streams) for block in blocks}
        return cls(
            blocks=tuple(blocks),
            first=probe_blocks * unit,
            last=(total - corrector_blocks - 1) * unit,
            streams=tuple(tuple(zip(positions[type(block)], spec.streams, strict=True)) for block in blocks),
            video=spec.streams.index(spec.video or spec.streams[0]),
            unit=unit,
        )

    def inputs(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Streams:
        """The streams that enter block ``index``."""
        return tuple([args[at] if at < len(args) else kwargs.get(name) for at, name in self.streams[index]])

    def running(self) -> tuple[int, int]:
        """``first`` and ``last`` without blocks at the edges that a guider's hook skips in this very call."""
        first, last = self.first, self.last
        while first < last and is_bypassed(self.blocks[first]):
            first += self.unit
        while last > first and is_bypassed(self.blocks[last]):
            last -= self.unit
        return first, last
