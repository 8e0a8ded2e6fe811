"""Installs a cache policy on the denoisers of a pipeline, and takes it away again."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .._diffusers import denoisers_of, observe_calls, rank_sum, wrap_forward
from ..configs import DBCacheConfig, LeMiCaConfig
from ..specs import PipelineSpec
from ..step_tracker import StepTracker
from .block_range import BlockRange
from .executor import BlockRangeExecutor
from .policies import CachePolicy, DBCachePolicy, SchedulePolicy
from .state import RunRecord

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def install_policy(
    pipe: DiffusionPipeline,
    spec: PipelineSpec,
    policy: CachePolicy,
    undo: ExitStack,
    *,
    probe_blocks: int = 0,
    corrector_blocks: int = 0,
    reuses_output: bool = False,
) -> RunRecord:
    """Cache the blocks of every denoiser of ``pipe`` under ``policy``.

    Args:
        pipe: a pipeline that ``spec`` covers.
        spec: where its denoisers and blocks are.
        policy: decides compute or reuse, shared by all denoisers.
        undo: receives the removals; closing it restores the pipeline exactly.
        probe_blocks, corrector_blocks: blocks that always run, before and after the cached ones.
        reuses_output: reuse the denoiser's output rather than the residual.

    Returns:
        The record that the next calls fill.

    Raises:
        ConfigError: probe and corrector leave no block to cache.
        UnsupportedPipelineError: a denoiser is not laid out as ``spec`` says.
    """
    record, tracker = RunRecord(), StepTracker(pipe)
    executors: list[BlockRangeExecutor] = []
    for name, denoiser in denoisers_of(pipe, spec.denoisers).items():
        block_range = BlockRange.of(
            name, denoiser, spec.denoisers[name], probe_blocks=probe_blocks, corrector_blocks=corrector_blocks
        )
        executor = BlockRangeExecutor(
            policy,
            record,
            block_range,
            reuses_output=reuses_output,
            rank_sum=functools.partial(rank_sum, denoiser),
            peers=executors,
        )
        undo.callback(executor.release)
        for index, block in enumerate(block_range.blocks):
            undo.callback(wrap_forward(block, functools.partial(executor.block_forward, index)))
        undo.callback(observe_calls(name, denoiser, tracker, executor, spec.denoisers[name].compute_when))
    return record


def install_dbcache(pipe: DiffusionPipeline, spec: PipelineSpec, config: DBCacheConfig, undo: ExitStack) -> RunRecord:
    """The installer of `DBCacheConfig`: the probe blocks' residual decides."""
    return install_policy(
        pipe,
        spec,
        DBCachePolicy(config),
        undo,
        probe_blocks=config.probe_blocks,
        corrector_blocks=config.corrector_blocks,
    )


def install_lemica(pipe: DiffusionPipeline, spec: PipelineSpec, config: LeMiCaConfig, undo: ExitStack) -> RunRecord:
    """The installer of `LeMiCaConfig`: probe and corrector ranges are empty, the schedule decides."""
    policy = SchedulePolicy(config.cache_schedule, config.forecast)
    return install_policy(pipe, spec, policy, undo, reuses_output=config.reuse == "output")
