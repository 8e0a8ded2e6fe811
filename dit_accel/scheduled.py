"""Runs a `CacheSchedule`: full, sparse, partial and reuse steps, from the inside to the outside of the blocks."""

from __future__ import annotations

from .cache.install import install_policy
from .cache.policies import SchedulePolicy
from .configs import LeMiCaConfig, SVG2Config
from .errors import ConfigError
from .installation import Installation
from .schedule import CacheSchedule
from .sparse.install import install_svg2


def install_lemica(installation: Installation, config: LeMiCaConfig) -> None:
    """The installer of `LeMiCaConfig`."""
    install_schedule(
        installation, config.cache_schedule, forecast=config.forecast, reuses_output=config.reuse == "output"
    )


def install_schedule(
    installation: Installation, schedule: CacheSchedule, *, forecast: str = "schedule", reuses_output: bool = False
) -> None:
    """Run ``schedule``. Sparse attention goes innermost, then partial steps, then the reuse of all blocks.

    Args:
        installation: the pipeline.
        schedule: what each step does.
        forecast, reuses_output: see `LeMiCaConfig`.

    Raises:
        ConfigError: partial steps leave no block to cache, or sparse attention is installed already.
        UnsupportedPipelineError: the schedule has sparse steps, and sparse attention does not apply.
    """
    if schedule.sparse is not None:
        if installation.attention_layers:
            raise ConfigError(
                f"Schedule {schedule.name!r} has sparse steps of its own, and SVG2Config was given besides. Leave it "
                "out, or use a schedule without sparse steps."
            )
        dense = tuple(sorted(set(range(schedule.num_steps)) - set(schedule.sparse.steps)))
        install_svg2(installation, SVG2Config(**{**schedule.sparse.config, "dense_steps": dense}))
    partial_steps = schedule.partial.steps if schedule.partial is not None else ()
    if schedule.partial is not None:
        install_policy(
            installation,
            SchedulePolicy(schedule, forecast, partial_steps),
            probe_blocks=schedule.partial.probe_blocks,
            corrector_blocks=schedule.partial.corrector_blocks,
            is_inner=True,
        )
    reuse_steps = set(range(schedule.num_steps)) - {*schedule.compute_steps, *partial_steps}
    install_policy(installation, SchedulePolicy(schedule, forecast, reuse_steps), reuses_output=reuses_output)
