"""The user's knobs. A config is frozen and validated; its type selects the installer, run state lives elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from .documents import is_number, quoted
from .errors import ConfigError
from .schedule import MAX_STEPS, CacheSchedule

Forecast = Literal["hold", "taylor1", "taylor2"]
PlannedForecast = Literal["schedule", "hold", "taylor1", "taylor2"]
Reuse = Literal["residual", "output"]
Backend = Literal["auto", "reference", "torch", "triton", "flex", "flashinfer"]


def require_choice(owner: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(
            f"{owner}: {name}={quoted(value)} is not allowed. Use one of: {', '.join(map(repr, allowed))}."
        )


def require_int(owner: str, name: str, value: object, at_least: int, *, is_optional: bool = False) -> None:
    """Raise `ConfigError` unless ``value`` is an integer of at least ``at_least`` (or None, if that is allowed)."""
    if value is None and is_optional:
        return
    if type(value) is not int or value < at_least:
        or_none = " or None" if is_optional else ""
        raise ConfigError(f"{owner}: {name} must be an integer of at least {at_least}{or_none}, got {quoted(value)}.")


def require_number(owner: str, name: str, value: object, low: float, high: float) -> None:
    """Raise `ConfigError` unless ``value`` is a finite number in [low, high]."""
    if not is_number(value) or not low <= float(value) <= high:  # type: ignore[arg-type]  # it is a number
        allowed = f"of at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ConfigError(f"{owner}: {name} must be a finite number {allowed}, got {quoted(value)}.")


def require_bool(owner: str, name: str, value: object) -> None:
    """Raise `ConfigError` unless ``value`` is True or False."""
    if type(value) is not bool:
        raise ConfigError(f"{owner}: {name} must be True or False, got {quoted(value)}.")


@dataclass(frozen=True, slots=True)
class DBCacheConfig:
    """Let the first blocks tell, at every step, whether the middle ones have to run.

    The *probe* blocks always run. If their residual has changed by less than a threshold since the last computed step,
    the middle blocks are skipped and their residual of that step is added instead; the *corrector* blocks always run.
    One decision a step holds for all CFG branches and both experts of Wan 2.2.

    Args:
        probe_blocks (`int`, at least 1):
            Blocks at the beginning that always run and are measured. More: a steadier signal, less saved. Paper: Fn.
        corrector_blocks (`int`, at least 0):
            Blocks at the end that always run, on the approximated state. More: closer to the full run, less saved.
            Paper: Bn.
        residual_diff_threshold (`float`, at least 0):
            Reuse while Σ|R − R*| / Σ|R*| is below it, R the probe's residual now and R* the one at the last computed
            step. Higher: faster, and further from the full run; 0 never reuses. Paper: τ.
        max_warmup_steps (`int`, at least 0):
            Steps computed at the beginning of a trajectory, once and not per expert. More: closer, slower. Paper: W.
        max_cached_steps (`int` or None):
            At most so many reused steps in a trajectory; None is no limit. Paper: MN.
        max_continuous_cached_steps (`int` or None):
            At most so many reused steps in a row; None is no limit. More: faster and further away. Paper: MC.
        always_compute_last (`bool`):
            Compute the last step, whose error nothing later can mend.
        forecast (`"hold"`, `"taylor1"`, `"taylor2"`):
            How the residual is carried to a reused step: as it was, or by the Taylor polynomial of that order through
            the last computed steps, in model time (the log signal-to-noise ratio). Each order keeps one more
            residual.
        compute_steps (`None`, sequence of `int`, schedule name, `Path` or `CacheSchedule`):
            Steps that are computed whatever the probe says; between them it may still ask for more.

    Raises:
        ConfigError: a value of the wrong type or outside its range.
        ScheduleError, HubError: ``compute_steps`` names a schedule that cannot be read, or had from the Hub.

    Whether probe and corrector leave blocks to cache is checked against the pipeline when acceleration is enabled.
    """

    probe_blocks: int = 1
    corrector_blocks: int = 0
    residual_diff_threshold: float = 0.08
    max_warmup_steps: int = 4
    max_cached_steps: int | None = None
    max_continuous_cached_steps: int | None = 3
    always_compute_last: bool = True
    forecast: Forecast = "hold"
    compute_steps: str | Path | CacheSchedule | Sequence[int] | None = None
    _schedule: CacheSchedule | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        owner = "DBCacheConfig"
        require_int(owner, "probe_blocks", self.probe_blocks, 1)
        require_int(owner, "corrector_blocks", self.corrector_blocks, 0)
        require_int(owner, "max_warmup_steps", self.max_warmup_steps, 0)
        require_int(owner, "max_cached_steps", self.max_cached_steps, 0, is_optional=True)
        require_int(owner, "max_continuous_cached_steps", self.max_continuous_cached_steps, 0, is_optional=True)
        require_bool(owner, "always_compute_last", self.always_compute_last)
        require_choice(owner, "forecast", self.forecast, get_args(Forecast))
        threshold = self.residual_diff_threshold
        if not is_number(threshold) or threshold < 0:
            raise ConfigError(
                f"{owner}: residual_diff_threshold must be a finite number of at least 0, got {quoted(threshold)}."
            )
        self._check_compute_steps()

    def _check_compute_steps(self) -> None:
        steps = self.compute_steps
        if isinstance(steps, (str, Path, CacheSchedule)):
            object.__setattr__(self, "_schedule", CacheSchedule.resolve(steps))
        elif steps is not None:
            is_short = isinstance(steps, (list, tuple, range)) and not steps[MAX_STEPS:]  # a range may never end
            if not is_short or any(type(k) is not int or k < 0 for k in steps):
                raise ConfigError(
                    "DBCacheConfig: compute_steps must be a schedule or a sequence of step indices of at least 0, at "
                    f"most {MAX_STEPS}, got {quoted(steps)}."
                )
            object.__setattr__(self, "compute_steps", tuple(steps))

    @property
    def schedule(self) -> CacheSchedule | None:
        """The schedule that ``compute_steps`` names, or None if it gives none or bare steps."""
        return self._schedule

    @property
    def forced_steps(self) -> tuple[int, ...]:
        """The steps of ``compute_steps``."""
        if self._schedule is not None:
            return self._schedule.compute_steps
        return tuple(self.compute_steps or ())  # type: ignore[arg-type]  # a name or path has a schedule


@dataclass(frozen=True, slots=True)
class LeMiCaConfig:
    """Reuse whole denoiser steps by a schedule that was planned offline.

    At a *compute* step all blocks run and the residual of the block stack (exit minus entry) is kept; at a *reuse*
    step the blocks are skipped and the kept residual is added to the new entry. Embeddings, output head and scheduler
    always run. Cond and uncond follow the same schedule with a residual each.

    Args:
        schedule (`str`, `Path` or `CacheSchedule`):
            The compute steps: the name of a shipped schedule (``"digits-wan/lemica-fast"``), one on the Hub
            (``"org/repo:name"``), a schedule file, or the object. Fewer compute steps: faster, and further from the
            full run.
        reuse (`"residual"` or `"output"`):
            What is kept of a compute step: the residual of the block stack, or the denoiser's output. The output is
            smaller to keep and, on the models tried, much further from the full run.
        forecast (`"schedule"`, `"hold"`, `"taylor1"`, `"taylor2"`):
            How it is carried to a reuse step. ``"schedule"``: by the weights that were planned, as it was if there are
            none. Otherwise as it was, or by the Taylor polynomial of that order through the last compute steps, in
            model time (the log signal-to-noise ratio). Each order, and each further weight, keeps one more.

    Raises:
        ConfigError: a value outside those listed, or a schedule with actions that ``reuse="output"`` cannot do.
        ScheduleError: the file or name cannot be read as a schedule.
        HubError: the schedule cannot be had from the Hub.

    Paper: LeMiCa (arXiv 2511.00090). Its set of full-compute steps under budget B is ``schedule.compute_steps``.
    """

    schedule: str | Path | CacheSchedule
    reuse: Reuse = "residual"
    forecast: PlannedForecast = "schedule"
    _resolved: CacheSchedule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_choice("LeMiCaConfig", "reuse", self.reuse, get_args(Reuse))
        require_choice("LeMiCaConfig", "forecast", self.forecast, get_args(PlannedForecast))
        resolved = CacheSchedule.resolve(self.schedule)
        object.__setattr__(self, "_resolved", resolved)
        has_weights = self.forecast == "schedule" and bool(resolved.forecasts)
        if self.reuse == "output" and (has_weights or resolved.partial is not None):
            raise ConfigError(
                f"LeMiCaConfig: reuse='output' does not go with {quoted(resolved.name)}: its forecasts or partial "
                "steps are of residuals. Use reuse='residual', or a schedule without them."
            )
        if resolved.sparse is not None:
            try:
                SVG2Config(**{**resolved.sparse.config, "dense_steps": 0.0})
            except TypeError as problem:  # a field that SVG2Config does not have
                raise ConfigError(
                    f"LeMiCaConfig: sparse.config of {quoted(resolved.name)}: {problem!s:.200}."
                ) from None

    @property
    def cache_schedule(self) -> CacheSchedule:
        """The schedule, loaded and validated."""
        return self._resolved


@dataclass(frozen=True, slots=True)
class SVG2Config:
    """Attend to the clusters of tokens that matter, and to one stand-in for each of the others.

    K-means puts similar queries, and similar keys, of a head into clusters. Centroids tell how much attention each
    pair of clusters has; the pairs that hold ``top_p`` of it are computed, and each dropped cluster of keys is
    represented by a pseudo-token with its mean key and mean value. A few exact rows of every head give the error.

    Args:
        top_p (`float` in [0, 1]):
            Share of the estimated attention of a layer, all heads together, that is computed. Higher: closer to dense,
            slower; 1 keeps every cluster. Paper: p, there a share for each cluster of queries.
        num_q_centroids, num_k_centroids (`int`, at least 1, or `"auto"`):
            Clusters of queries and of keys a head. ``"auto"``: one for 256 queries, one for 64 keys. More: a finer
            choice of pairs, more time for k-means. Paper: C_q, C_k.
        kmeans_iters_init (`int`, at least 1):
            Lloyd iterations of the first fit, on a sample of the tokens. More: better clusters at the first step.
        kmeans_iters_step (`int`, at least 0):
            Iterations from the last centroids, whenever clusters are refreshed; 0 only assigns tokens anew.
        min_kept_ratio (`float` in [0, 1]):
            Share of all keys that is kept at least, counted in tokens. Higher: closer to dense, slower.
        compensate (`bool`):
            Have pseudo-tokens stand for dropped clusters, in the heads in which that lowers the sampled error. Off:
            dropped clusters are left out of the softmax, as in the paper.
        dense_steps (`float` in [0, 1], or tuple of `int`):
            Share of the steps, the first ones, with dense attention; or the steps themselves. More of them: closer to
            dense, slower.
        dense_layers (`float` in [0, 1]):
            Share of the layers, the first ones, with dense attention.
        refresh_every (`int`, at least 1):
            Computed steps for which a clustering and its selection serve. More: less time for k-means, and an older
            selection.
        max_drift (`float`, at least 0):
            Refresh early once the sampled error has grown by this share since the last refresh. Higher: fewer
            refreshes. Only matters with ``refresh_every`` above 1.
        max_error (`float`, at least 0, or `None`):
            Heads whose sampled relative output error is above it are computed in full. Lower: closer, slower.
        probe_rows (`int`, at least 0):
            Queries a head that are computed exactly, for the error in the stats. More: a steadier estimate. 0: no
            estimate, and compensation in every head.
        min_tokens (`int`, at least 0, or `"auto"`):
            Shorter sequences are computed dense. ``"auto"``: where the backend was measured to break even, in float32
            and in half precision.
        backend (`"auto"`, `"reference"`, `"torch"`, `"triton"`, `"flex"`, `"flashinfer"`):
            What computes it. ``"auto"`` takes the fastest that loads; any other loads or raises.

    Raises:
        ConfigError: a value of the wrong type or outside its range, or ``max_error`` without ``probe_rows``.

    Paper: Sparse VideoGen2 (arXiv 2505.18875).
    """

    top_p: float = 0.9
    num_q_centroids: int | Literal["auto"] = "auto"
    num_k_centroids: int | Literal["auto"] = "auto"
    kmeans_iters_init: int = 8
    kmeans_iters_step: int = 1
    min_kept_ratio: float = 0.1
    compensate: bool = True
    dense_steps: float | tuple[int, ...] = 0.2
    dense_layers: float = 0.03
    refresh_every: int = 1
    max_drift: float = 0.5
    max_error: float | None = None
    probe_rows: int = 64
    min_tokens: int | Literal["auto"] = "auto"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        owner = "SVG2Config"
        for name in ("top_p", "min_kept_ratio", "dense_layers"):
            require_number(owner, name, getattr(self, name), 0, 1)
        if isinstance(self.dense_steps, tuple):
            for step in self.dense_steps:
                require_int(owner, "every one of dense_steps", step, 0)
        else:
            require_number(owner, "dense_steps", self.dense_steps, 0, 1)
        for name, low in (("num_q_centroids", 1), ("num_k_centroids", 1), ("min_tokens", 0)):
            value = getattr(self, name)
            if not isinstance(value, str) or value != "auto":
                require_int(owner, name, value, low)
        for name, low in (("kmeans_iters_init", 1), ("kmeans_iters_step", 0), ("refresh_every", 1), ("probe_rows", 0)):
            require_int(owner, name, getattr(self, name), low)
        require_number(owner, "max_drift", self.max_drift, 0, math.inf)
        require_bool(owner, "compensate", self.compensate)
        require_choice(owner, "backend", self.backend, get_args(Backend))
        if self.max_error is not None:
            require_number(owner, "max_error", self.max_error, 0, math.inf)
            if self.probe_rows == 0:
                raise ConfigError(f"{owner}: max_error={self.max_error} needs probe_rows of at least 1, got 0.")


Config = DBCacheConfig | LeMiCaConfig | SVG2Config
