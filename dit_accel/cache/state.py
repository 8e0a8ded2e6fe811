"""Run state of the cache. Knobs live in `dit_accel.configs`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Streams = tuple[Tensor | None, ...]
Form = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a compute step leaves for later steps: the residual of the cached blocks, or the denoiser's output."""

    step: int
    tensors: Streams

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor is not None)


@dataclass(slots=True)
class BranchState:
    """What one branch of one denoiser carries through a trajectory. ``kept`` has the newest last."""

    origin: Tensor | None = None
    entry: Streams | None = None
    kept: list[Kept] = field(default_factory=list)
    kept_form: Form | None = None
    value: Streams | None = None
    first: int = 0
    last: int = 0
    is_reuse: bool = False
    is_kept: bool = False

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that is held."""
        groups = [(self.origin,), self.entry or (), self.value or (), *(kept.tensors for kept in self.kept)]
        return [tensor for group in groups for tensor in group if tensor is not None]
