"""The verb and its handle: `enable_acceleration` and `Acceleration`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ._diffusers import denoisers_of, find_blocks, keep_exclusive, refuse_other_caches, refuse_running_elsewhere
from .cache.install import install_dbcache
from .configs import Config, DBCacheConfig, LeMiCaConfig, SVG2Config
from .documents import quoted
from .errors import AlreadyAcceleratedError, ConfigError, UnknownPresetError, UnsupportedPipelineError, did_you_mean
from .installation import Installation
from .registry import find_spec, presets_of, refuse_other_family
from .run_record import AccelerationStats, StepCounter
from .scheduled import install_lemica
from .sparse import SVG2State
from .sparse.install import install_svg2

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

    from .recommend import Recommendation

Installer = Callable[[Installation, Any], None]

_INSTALLERS: dict[type, Installer] = {
    SVG2Config: install_svg2,
    DBCacheConfig: install_dbcache,
    LeMiCaConfig: install_lemica,
}
_MAX_DEPTH = 20  # of sequences of presets in one another
_HANDLE = "_dit_accel_acceleration"  # attribute on each denoiser while it is accelerated


class Acceleration:
    """What `enable_acceleration` returns: the stats of the last run, and the way back. Also a context manager."""

    def __init__(
        self,
        configs: tuple[Config, ...],
        recommendation: Recommendation | None,
        installation: Installation,
        undo: ExitStack,
    ) -> None:
        self._configs, self._recommendation, self._undo = configs, recommendation, undo
        self._installation, self._record = installation, installation.run_of(installation.pipe).record

    @property
    def configs(self) -> tuple[Config, ...]:
        """The configs in force."""
        return self._configs

    @property
    def recommendation(self) -> Recommendation | None:
        """How the preset was chosen, if limits were given in its place, with what was measured of it; else None."""
        return self._recommendation

    @property
    def stats(self) -> AccelerationStats:
        """What really ran in the last call of the pipeline; empty before the first."""
        return self._record.stats()

    def stats_of(self, pipe: DiffusionPipeline) -> AccelerationStats:
        """The same for another pipeline that shares the denoisers, whose calls are not in ``stats``."""
        return self._installation.run_of(pipe).record.stats()

    def free(self) -> None:
        """Free what aborted calls have left, as the next call would; what running calls hold stays."""
        self._installation.release_idle()

    def clusters(self, layer: int, denoiser: str = "transformer") -> dict[str, SVG2State]:
        """What the sparse attention of a layer holds at this moment of a run, by branch: for looking at it.

        Call it from ``callback_on_step_end``, and see `dit_accel.sparse.plot_clusters`. Empty before the first sparse
        step and after the last step.

        Raises:
            ConfigError: there is no sparse attention, no such denoiser, or no such layer.
        """
        found = self._installation.attention_layers
        if not 0 <= layer < found.get(denoiser, 0):
            raise ConfigError(f"There is no sparse attention in layer {layer} of {denoiser!r}. Layers: {found}.")
        run = self._installation.run_of(self._installation.pipe)
        return dict(run.attention_layers[denoiser][layer].states)

    def disable(self) -> None:
        """Restore the pipeline exactly: its output is bit-identical to one never accelerated. May be called again.

        Raises:
            ConcurrentUseError: another thread is in a call of a pipeline with these denoisers; nothing was changed.
        """
        refuse_running_elsewhere(self._installation.denoisers.values(), "disable()")
        self._undo.close()

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disable()


def enable_acceleration(
    pipe: DiffusionPipeline,
    *presets_or_configs: str | Config | Sequence[str | Config],
    speedup: float | None = None,
    max_lpips: float | None = None,
    max_st_lpips: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    **overrides: Any,
) -> Acceleration:
    """Accelerate the next calls of ``pipe``.

    Args:
        pipe: a supported diffusers pipeline; only this instance is changed.
        presets_or_configs: preset names (``"lemica-fast"``), schedule files (``"mine.json"``), schedules on the Hub
            (``"org/repo:name"``), configs, or sequences of them. ``"a+b"`` joins names.
        speedup, max_lpips, max_st_lpips, min_psnr, min_ssim: limits in place of a preset; the one that was measured to
            meet them best is enabled, see `dit_accel.recommend.recommend`, and ``handle.recommendation`` says why.
        overrides: fields to replace in the configs, e.g. ``forecast="hold"``.

    Returns:
        The handle; ``handle.disable()`` undoes everything.

    Raises:
        UnsupportedPipelineError: no specification covers the pipeline, it has no denoiser, or the method does not
            apply to it.
        UnknownPresetError: the pipeline has no such preset.
        ConfigError: nothing was asked for, two configs of one method, DBCache and LeMiCa together, an override that no
            config has, limits beside a preset or an override, or probe and corrector blocks that leave nothing to
            cache.
        NoRecommendationError: nothing was measured of this model, or no preset meets the limits.
        AlreadyAcceleratedError: the pipeline, or one that shares its denoiser, is accelerated already, or has a cache
            of diffusers or cache-dit enabled.
        ConcurrentUseError: another thread is in a call of a pipeline with the same denoiser.
        ScheduleMismatchError: a schedule was planned for another family of pipelines.
        HubError, ScheduleError: a schedule cannot be had from the Hub, or is not valid.
        BackendUnavailableError: the sparse attention backend asked for cannot run here.
    """
    spec = find_spec(pipe)
    limits = {"speedup": speedup, "max_lpips": max_lpips, "max_st_lpips": max_st_lpips}
    limits |= {"min_psnr": min_psnr, "min_ssim": min_ssim}
    recommendation = _recommended(pipe, presets_or_configs, overrides, limits)
    if recommendation is not None:
        presets_or_configs = (recommendation.preset,)
    configs = _overridden(tuple(_flatten(pipe, presets_or_configs)), overrides)
    for config in configs:
        schedule = config.cache_schedule if isinstance(config, LeMiCaConfig) else getattr(config, "schedule", None)
        if schedule is not None:
            refuse_other_family(pipe, spec, schedule)
    denoisers = denoisers_of(pipe, spec.denoisers)
    if not denoisers:
        raise UnsupportedPipelineError(
            f"This {type(pipe).__name__} has no denoiser: {', '.join(spec.denoisers)} are all None. Load it with one."
        )
    refuse_accelerated(pipe, denoisers)
    refuse_running_elsewhere(denoisers.values(), "enable_acceleration")
    with ExitStack() as undo:  # a failure half-way unwinds what was installed
        installation = Installation(pipe, spec, undo)
        # In the order of the table: what wraps a block first is the last to be reached.
        for kind, install in _INSTALLERS.items():
            for config in configs:
                if type(config) is kind:
                    install(installation, config)
        if not any(isinstance(config, (DBCacheConfig, LeMiCaConfig)) for config in configs):
            for name in denoisers:
                installation.observe_runs(name, lambda run: StepCounter(run.record))
        installation.start()
        for name, denoiser in denoisers.items():
            undo.callback(keep_exclusive(denoiser, find_blocks(name, denoiser, spec.denoisers[name])))
        acceleration = Acceleration(configs, recommendation, installation, undo.pop_all())
    for denoiser in denoisers.values():
        setattr(denoiser, _HANDLE, acceleration)
        acceleration._undo.callback(delattr, denoiser, _HANDLE)
    return acceleration


def _recommended(
    pipe: DiffusionPipeline, wanted: Sequence[Any], overrides: dict[str, Any], limits: dict[str, Any]
) -> Recommendation | None:
    """The preset that meets the limits that are given; None if there are none."""
    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        return None
    if wanted or overrides:
        beside = ", ".join([*map(quoted, wanted), *overrides])
        raise ConfigError(
            f"Limits ({', '.join(given)}) choose a preset as it was measured, and {beside:.200} was given besides. "
            "Leave that out, or name a preset without limits; dit_accel.recommend.recommend(pipe, ...) tells which."
        )
    from .recommend import recommend

    return recommend(pipe, **given)


def refuse_accelerated(pipe: DiffusionPipeline, denoisers: dict[str, nn.Module]) -> None:
    """Raise `AlreadyAcceleratedError` if one of ``denoisers`` is accelerated, or has another cache."""
    for name, denoiser in denoisers.items():
        if hasattr(denoiser, _HANDLE):
            raise AlreadyAcceleratedError(
                f"{type(pipe).__name__}.{name} is already accelerated, with {getattr(denoiser, _HANDLE).configs}. "
                "Call disable_acceleration(pipe), or .disable() on its handle, first."
            )
    refuse_other_caches(pipe, denoisers)


def disable_acceleration(pipe: DiffusionPipeline) -> None:
    """Undo `enable_acceleration` on ``pipe``; does nothing if it is not accelerated.

    Raises:
        UnsupportedPipelineError: no specification covers the pipeline.
    """
    for denoiser in denoisers_of(pipe, find_spec(pipe).denoisers).values():
        acceleration = getattr(denoiser, _HANDLE, None)
        if acceleration is not None:
            acceleration.disable()


def available_presets(pipe: DiffusionPipeline) -> list[str]:
    """Names that `enable_acceleration` takes for ``pipe``, sorted.

    Raises:
        UnsupportedPipelineError: no specification covers the pipeline.
    """
    return sorted(presets_of(pipe))


def _flatten(pipe: DiffusionPipeline, wanted: Sequence[Any], depth: int = 0) -> list[Config]:
    """Presets and configs, nested or joined by ``+``, as a flat list of configs."""
    presets = presets_of(pipe)
    configs: list[Config] = []
    for item in wanted:
        if type(item) in _INSTALLERS:
            configs.append(item)
        elif isinstance(item, str):
            for name in item.split("+"):
                if ":" in name or name.endswith(".json"):  # on the Hub, or a file; no preset is called so
                    configs.append(LeMiCaConfig(name))
                    continue
                if name not in presets:
                    raise _unknown_preset(type(pipe).__name__, name, sorted(presets))
                configs += presets[name]()
        elif isinstance(item, Sequence) and depth < _MAX_DEPTH:
            configs += _flatten(pipe, item, depth + 1)
        else:
            allowed = ", ".join(kind.__name__ for kind in _INSTALLERS)
            raise ConfigError(
                f"{quoted(item)} is neither a preset name nor a config. Use a string or one of: {allowed}."
            )
    return configs


def _unknown_preset(pipeline: str, name: str, known: list[str]) -> UnknownPresetError:
    message = f"{pipeline} has no preset {quoted(name)}. Presets: {', '.join(known)}.{did_you_mean(name, known)}"
    if name.startswith("lemica") and not any(preset.startswith("lemica") for preset in known):
        message += (
            " No LeMiCa schedule ships for a denoiser of this configuration. Profile the model with 'dit-accel "
            'profile JOB.toml\' and pass LeMiCaConfig(schedule="PATH.json").'
        )
    return UnknownPresetError(message)


def _overridden(configs: tuple[Config, ...], overrides: dict[str, Any]) -> tuple[Config, ...]:
    """The configs with ``overrides`` applied where they have the field; one config a method, at least one in all."""
    if not configs:
        raise ConfigError(
            "Nothing to enable: give a preset name or a config, e.g. enable_acceleration(pipe, 'lemica-fast'), or a "
            "limit, e.g. enable_acceleration(pipe, speedup=2)."
        )
    kinds = [type(config) for config in configs]
    twice = {kind.__name__ for kind in kinds if kinds.count(kind) > 1}
    if twice:
        raise ConfigError(f"Two configs of {', '.join(sorted(twice))} were given. Use one config a method.")
    if {DBCacheConfig, LeMiCaConfig} <= set(kinds):
        raise ConfigError(
            "DBCacheConfig and LeMiCaConfig both decide which steps are computed. Use one of them, or "
            "DBCacheConfig(compute_steps=SCHEDULE) to have the probe refine a schedule."
        )
    allowed = {f.name for kind in kinds for f in dataclasses.fields(kind) if f.init}
    unknown = sorted(set(overrides) - allowed)
    if unknown:
        raise ConfigError(
            f"No config has {', '.join(unknown):.200}. Fields that can be overridden: {', '.join(sorted(allowed))}."
        )
    return tuple(_replaced(config, overrides) for config in configs)


def _replaced(config: Config, overrides: dict[str, Any]) -> Config:
    """``config`` with what ``overrides`` has of its fields; itself if nothing, as making one may ask the Hub."""
    changes = {f.name: overrides[f.name] for f in dataclasses.fields(config) if f.name in overrides}
    return dataclasses.replace(config, **changes) if changes else config
