"""Run state of the cache and the record of what really ran. Knobs live in `dit_accel.configs`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from .._diffusers import DenoiserCall
from ..stopwatch import Stopwatch

StepsByBranch = dict[str, dict[str, list[int]]]


@dataclass(slots=True)
class BranchState:
    """What one branch of one denoiser carries through a trajectory."""

    entry: tuple[Tensor, ...] | None = None
    residual: tuple[Tensor, ...] | None = None
    is_reuse: bool = False
    is_kept: bool = False

    @property
    def residual_bytes(self) -> int:
        """Bytes held by the residual."""
        return sum(tensor.nbytes for tensor in self.residual or ())


@dataclass(frozen=True, slots=True)
class AccelerationStats:
    """What really ran in the last trajectory.

    ``computed_steps`` and ``reused_steps`` map denoiser -> branch -> step indices with the cached blocks computed or
    reused. ``density`` is the kept share of attention pairs in [0, 1], None without sparse attention.
    ``denoise_seconds`` is the wall time of the denoising loop, ``cache_bytes_peak`` the most that kept residuals took.
    """

    num_steps: int
    computed_steps: StepsByBranch
    reused_steps: StepsByBranch
    density: float | None
    dense_calls: int
    sparse_calls: int
    denoise_seconds: float
    cache_bytes_peak: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _steps() -> defaultdict[str, defaultdict[str, list[int]]]:
    return defaultdict(lambda: defaultdict(list))


@dataclass(slots=True)
class RunRecord:
    """Collects the stats of one trajectory over all denoisers of a pipeline; starts afresh with every trajectory."""

    trajectory: int = -1
    num_steps: int = 0
    computed: defaultdict[str, defaultdict[str, list[int]]] = field(default_factory=_steps)
    reused: defaultdict[str, defaultdict[str, list[int]]] = field(default_factory=_steps)
    cache_bytes: int = 0
    cache_bytes_peak: int = 0
    watch: Stopwatch = field(default_factory=Stopwatch)

    def begin(self, call: DenoiserCall) -> None:
        """Start afresh if the call opens a trajectory."""
        if call.trajectory != self.trajectory:
            self.trajectory, self.num_steps = call.trajectory, call.num_steps
            self.computed, self.reused = _steps(), _steps()
            self.cache_bytes_peak = self.cache_bytes
            self.watch = Stopwatch()

    def count(self, call: DenoiserCall, *, is_reuse: bool) -> None:
        """Note that the cached blocks of this call were computed or reused."""
        (self.reused if is_reuse else self.computed)[call.denoiser][call.branch].append(call.step)

    def hold(self, change_bytes: int) -> None:
        """Note that kept residuals grew or shrank."""
        self.cache_bytes += change_bytes
        self.cache_bytes_peak = max(self.cache_bytes_peak, self.cache_bytes)

    def stats(self) -> AccelerationStats:
        """A snapshot."""

        def plain(steps: defaultdict[str, defaultdict[str, list[int]]]) -> StepsByBranch:
            return {
                denoiser: {b: list(found) for b, found in branches.items()} for denoiser, branches in steps.items()
            }

        return AccelerationStats(
            num_steps=self.num_steps,
            computed_steps=plain(self.computed),
            reused_steps=plain(self.reused),
            density=None,
            dense_calls=0,
            sparse_calls=0,
            denoise_seconds=self.watch.seconds,
            cache_bytes_peak=self.cache_bytes_peak,
        )
