"""What sparse attention carries from one step to the next, and what a call tells about itself. Knobs: `SVG2Config`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .clusters import Clusters


@dataclass(frozen=True, slots=True)
class SparseInfo:
    """What one call of `svg2_attention` did. Its tensors stay on the device; the properties read them.

    Args:
        num_pairs_total: query-key pairs of dense attention, over batch and heads.
        dense_reason: why the call was computed dense, or None.
        pairs: [] float64, pairs that were computed; None if dense.
        error: [B, H] float32, sampled relative error of the output, ‖sparse − dense‖ / ‖dense‖ over the probe rows;
            None if dense or not sampled.
        nbytes: bytes that the state holds for the next step.
    """

    num_pairs_total: int
    dense_reason: str | None = None
    pairs: Tensor | None = None
    error: Tensor | None = None
    nbytes: int = 0

    @property
    def is_dense(self) -> bool:
        """Whether every pair was computed by dense attention."""
        return self.dense_reason is not None

    @property
    def num_pairs(self) -> int:
        """Pairs that were computed. Reads from the device."""
        return self.num_pairs_total if self.pairs is None else round(float(self.pairs))

    @property
    def density(self) -> float:
        """Share of the pairs that was computed, in [0, 1]. Reads from the device."""
        return self.num_pairs / self.num_pairs_total


class LateFlag:
    """A yes or no of the device that the host reads one step later, when it has long arrived: nobody waits."""

    def __init__(self) -> None:
        self._value: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def set(self, value: Tensor) -> None:
        """Send the 0-dim bool ``value`` on its way."""
        if value.device.type == "cuda":
            self._value = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._value = value

    def read(self) -> bool:
        """The value sent last; False if there was none."""
        if self._value is None:
            return False
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)


@dataclass(slots=True)
class SVG2State:
    """What the attention of one layer carries from step to step, for one branch.

    ``query_centroids`` and ``key_centroids`` [B, H, C, D] float32 are where k-means starts; ``query``, ``key`` and
    ``kept`` the partition and selection that serve until the next refresh; ``first_error`` [] the sampled error
    right after the last one.
    """

    query_centroids: Tensor | None = None
    key_centroids: Tensor | None = None
    query: Clusters | None = None
    key: Clusters | None = None
    kept: Tensor | None = None
    first_error: Tensor | None = None
    calls: int = 0
    is_stale: bool = False
    has_drifted: LateFlag = field(default_factory=LateFlag)

    def reset(self) -> None:
        """Forget everything, as before the first step."""
        self.query_centroids = self.key_centroids = self.kept = self.first_error = None
        self.query = self.key = None
        self.calls, self.is_stale, self.has_drifted = 0, False, LateFlag()

    def mark_stale(self) -> None:
        """Refresh clusters and selection at the next call."""
        self.is_stale = True

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        clusters = [c for c in (self.query, self.key) if c is not None]
        tensors = [self.query_centroids, self.key_centroids, self.kept]
        tensors += [t for c in clusters for t in vars(c).values()]
        return sum(t.nbytes for t in tensors if t is not None)
