"""Run state of the cache and the record of what really ran. Knobs live in `dit_accel.configs`."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ..step_tracker import DenoiserCall
from ..stopwatch import Stopwatch

StepsByBranch = dict[str, dict[str, list[int]]]
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


@dataclass(slots=True)
class Progress:
    """How far a trajectory has come, over all branches and denoisers of a pipeline: what policies look at."""

    first_step: int = 0
    cached_steps: int = 0
    continuous_cached_steps: int = 0
    _step: int = -1

    def note(self, step: int, *, is_compute: bool) -> None:
        """The step was decided; a second denoiser that runs in the same step does not make it two."""
        if is_compute:
            self.continuous_cached_steps = 0
        elif step != self._step:
            self.cached_steps += 1
            self.continuous_cached_steps += 1
        self._step = step


@dataclass(frozen=True, slots=True)
class AccelerationStats:
    """What really ran in the last trajectory.

    ``computed_steps`` and ``reused_steps`` map denoiser -> branch -> step indices with the cached blocks computed or
    reused. ``density`` is the kept share of attention pairs in [0, 1], None without sparse attention.
    ``denoise_seconds`` is the wall time of the denoising loop, ``cache_bytes_peak`` the most that kept residuals took.
    ``residual_diffs`` maps denoiser -> pairs of a step and the probe's distance there, for the steps that were decided
    by it: what `DBCacheConfig.residual_diff_threshold` was compared with. ``nan_steps`` maps denoiser -> the steps
    at which that distance was NaN; they were computed.
    """

    num_steps: int
    computed_steps: StepsByBranch
    reused_steps: StepsByBranch
    density: float | None
    dense_calls: int
    sparse_calls: int
    denoise_seconds: float
    cache_bytes_peak: int
    residual_diffs: dict[str, list[list[float]]] = field(default_factory=dict)
    nan_steps: dict[str, list[int]] = field(default_factory=dict)

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
    progress: Progress = field(default_factory=Progress)
    distances: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def begin(self, call: DenoiserCall) -> None:
        """Start afresh if the call opens a trajectory."""
        if call.trajectory != self.trajectory:
            self.trajectory, self.num_steps = call.trajectory, call.num_steps
            self.computed, self.reused = _steps(), _steps()
            self.cache_bytes_peak = self.cache_bytes
            self.watch = Stopwatch()
            self.progress = Progress(first_step=call.step)
            self.distances = {}

    def count(self, call: DenoiserCall, *, is_reuse: bool) -> None:
        """Note that the cached blocks of this call were computed or reused."""
        (self.reused if is_reuse else self.computed)[call.denoiser][call.branch].append(call.step)

    def note_distance(self, call: DenoiserCall, distance: float) -> None:
        """Note what the step was decided by."""
        self.distances.setdefault(call.denoiser, []).append((call.step, distance))

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
            residual_diffs={
                name: [[step, d] for step, d in pairs if not math.isnan(d)] for name, pairs in self.distances.items()
            },
            nan_steps={
                name: [step for step, d in pairs if math.isnan(d)]
                for name, pairs in self.distances.items()
                if any(math.isnan(d) for _, d in pairs)
            },
        )
