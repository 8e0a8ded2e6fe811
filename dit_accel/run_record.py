"""The record of what really ran in a trajectory, over all methods and denoisers of a pipeline, and the stats of it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .step_tracker import DenoiserCall
from .stopwatch import Stopwatch

StepsByBranch = dict[str, dict[str, list[int]]]


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
    reused; ``partial_steps``, those of a schedule at which only the first and last blocks ran, in neither of them.
    ``sparse_steps``, the same way, are the steps in which some self-attention was sparse, whatever else they are.
    ``denoise_seconds`` is the wall time of the denoising loop, ``cache_bytes_peak`` the most that was kept between
    steps: residuals, and clusters of sparse attention. ``residual_diffs`` maps denoiser -> pairs of a step and the
    probe's distance there, for the steps that were decided by it: what `DBCacheConfig.residual_diff_threshold` was
    compared with. ``nan_steps`` maps denoiser -> the steps at which that distance was NaN; they were computed.

    Of the self-attention of computed blocks, with `SVG2Config`: ``sparse_calls`` and ``dense_calls`` count how it was
    computed, ``dense_reasons`` why it was dense. ``density`` is the share of query-key pairs that was computed over
    all these calls, ``sparse_density`` over the sparse ones, both in [0, 1], None if there were none.
    ``attention_error`` is the mean of the sampled relative errors ‖sparse − dense‖ / ‖dense‖ of the sparse calls and
    their heads, ``attention_errors`` maps denoiser -> the same by layer (None: no sparse call). Under context
    parallelism all of these are of this process's heads; the mean of the processes' densities is that of the run.
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
    dense_reasons: dict[str, int] = field(default_factory=dict)
    sparse_density: float | None = None
    attention_error: float | None = None
    attention_errors: dict[str, list[float | None]] = field(default_factory=dict)
    partial_steps: StepsByBranch = field(default_factory=dict)
    sparse_steps: StepsByBranch = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(slots=True)
class _Mean:
    """A mean that is summed up on the device and read once."""

    total: Tensor
    count: int = 1


@dataclass(slots=True)
class AttentionRecord:
    """Collects what the self-attention calls of one trajectory did. Nothing is read from a device before the stats."""

    dense_reasons: Counter[str] = field(default_factory=Counter)
    dense_pairs: int = 0
    sparse_calls: int = 0
    sparse_pairs: int = 0
    kept: dict[torch.device, Tensor] = field(default_factory=dict)
    errors: dict[str, dict[int, _Mean]] = field(default_factory=dict)

    def note_dense(self, reason: str, pairs: int) -> None:
        """A call of ``pairs`` query-key pairs, over batch and heads, was dense for ``reason``."""
        self.dense_reasons[reason] += 1
        self.dense_pairs += pairs

    def note_sparse(self, denoiser: str, layer: int, pairs: int, kept: Tensor, error: Tensor | None) -> None:
        """A call computed ``kept`` [] of its ``pairs``, with the sampled ``error`` [B, H]."""
        self.sparse_calls += 1
        self.sparse_pairs += pairs
        found = self.kept.get(kept.device)
        self.kept[kept.device] = kept if found is None else found + kept
        if error is None:
            return
        mean = self.errors.setdefault(denoiser, {}).get(layer)
        if mean is None:
            self.errors[denoiser][layer] = _Mean(error.mean())
        else:
            mean.total, mean.count = mean.total + error.mean(), mean.count + 1

    def stats(self) -> dict[str, Any]:
        """The fields of `AccelerationStats` on attention."""
        kept, pairs = sum(float(tensor) for tensor in self.kept.values()), self.sparse_pairs + self.dense_pairs
        errors = {
            name: {layer: (float(mean.total), mean.count) for layer, mean in layers.items()}
            for name, layers in self.errors.items()
        }
        every = [pair for layers in errors.values() for pair in layers.values()]
        return {
            "dense_calls": self.dense_reasons.total(),
            "sparse_calls": self.sparse_calls,
            "dense_reasons": dict(self.dense_reasons),
            "density": (kept + self.dense_pairs) / pairs if pairs else None,
            "sparse_density": kept / self.sparse_pairs if self.sparse_pairs else None,
            "attention_error": sum(t for t, _ in every) / sum(n for _, n in every) if every else None,
            "attention_errors": {
                name: [layers[k][0] / layers[k][1] if k in layers else None for k in range(max(layers) + 1)]
                for name, layers in errors.items()
            },
        }


def _steps() -> defaultdict[str, defaultdict[str, list[int]]]:
    return defaultdict(lambda: defaultdict(list))


@dataclass(slots=True)
class RunRecord:
    """Collects the stats of one trajectory over all denoisers of a pipeline; starts afresh with every trajectory."""

    trajectory: int = -1
    num_steps: int = 0
    computed: defaultdict[str, defaultdict[str, list[int]]] = field(default_factory=_steps)
    reused: defaultdict[str, defaultdict[str, list[int]]] = field(default_factory=_steps)
    partial: defaultdict[str, defaultdict[str, list[int]]] = field(default_factory=_steps)
    sparse: defaultdict[str, defaultdict[str, list[int]]] = field(default_factory=_steps)
    cache_bytes: int = 0
    cache_bytes_peak: int = 0
    watch: Stopwatch = field(default_factory=Stopwatch)
    progress: Progress = field(default_factory=Progress)
    distances: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    attention: AttentionRecord = field(default_factory=AttentionRecord)

    def begin(self, call: DenoiserCall) -> None:
        """Start afresh if the call opens a trajectory."""
        if call.trajectory != self.trajectory:
            self.trajectory, self.num_steps = call.trajectory, call.num_steps
            self.computed, self.reused, self.partial, self.sparse = _steps(), _steps(), _steps(), _steps()
            self.cache_bytes_peak = self.cache_bytes
            self.watch = Stopwatch()
            self.progress = Progress(first_step=call.step)
            self.distances = {}
            self.attention = AttentionRecord()

    def count(self, call: DenoiserCall, *, is_reuse: bool) -> None:
        """Note that the cached blocks of this call were computed or reused."""
        (self.reused if is_reuse else self.computed)[call.denoiser][call.branch].append(call.step)

    def count_partial(self, call: DenoiserCall, *, is_reuse: bool) -> None:
        """Note that of a call that `count` takes for computed only some blocks ran, if ``is_reuse``."""
        if is_reuse:
            self.partial[call.denoiser][call.branch].append(call.step)

    def count_sparse(self, call: DenoiserCall) -> None:
        """Note that some self-attention of this call was sparse; many layers say so."""
        steps = self.sparse[call.denoiser][call.branch]
        if not steps or steps[-1] != call.step:
            steps.append(call.step)

    def note_distance(self, call: DenoiserCall, distance: float) -> None:
        """Note what the step was decided by."""
        self.distances.setdefault(call.denoiser, []).append((call.step, distance))

    def hold(self, change_bytes: int) -> None:
        """Note that what is kept between steps grew or shrank."""
        self.cache_bytes += change_bytes
        self.cache_bytes_peak = max(self.cache_bytes_peak, self.cache_bytes)

    def stats(self) -> AccelerationStats:
        """A snapshot."""

        def plain(steps: defaultdict[str, defaultdict[str, list[int]]]) -> StepsByBranch:
            return {
                denoiser: {b: list(found) for b, found in branches.items()} for denoiser, branches in steps.items()
            }

        computed, partial = plain(self.computed), plain(self.partial)
        for denoiser, branches in partial.items():
            for branch, steps in branches.items():
                computed[denoiser][branch] = [step for step in computed[denoiser][branch] if step not in steps]
        return AccelerationStats(
            num_steps=self.num_steps,
            computed_steps=computed,
            reused_steps=plain(self.reused),
            partial_steps=partial,
            sparse_steps=plain(self.sparse),
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
            **self.attention.stats(),
        )


class StepCounter:
    """Counts every call as computed: the observer of a pipeline whose steps nothing reuses."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._call: DenoiserCall | None = None

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins; None is one to leave alone."""
        self._call = call
        if call is not None:
            self._record.begin(call)
            self._record.watch.start()

    def end(self, output: Any) -> None:
        """The forward is over."""
        if self._call is not None:
            self._record.count(self._call, is_reuse=False)
            self._record.watch.lap()
