"""Installs a cache policy on the denoisers of a pipeline, and takes it away again."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from .._diffusers import StepTracker, denoisers_of, find_blocks, observe_calls, stream_positions, wrap_block
from ..configs import LeMiCaConfig
from ..specs import PipelineSpec
from .executor import BlockRangeExecutor
from .policies import CachePolicy, SchedulePolicy
from .state import RunRecord

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def install_policy(pipe: DiffusionPipeline, spec: PipelineSpec, policy: CachePolicy, undo: ExitStack) -> RunRecord:
    """Cache all blocks of every denoiser of ``pipe`` under ``policy``.

    Args:
        pipe: a pipeline that ``spec`` covers.
        spec: where its denoisers and blocks are.
        policy: decides compute or reuse, shared by all denoisers.
        undo: receives the removals; closing it restores the pipeline exactly.

    Returns:
        The record that the next calls fill.
    """
    record, tracker = RunRecord(), StepTracker(pipe)
    executors: list[BlockRangeExecutor] = []
    for name, denoiser in denoisers_of(pipe, spec.denoisers).items():
        blocks = find_blocks(name, denoiser, spec.blocks)
        executor = BlockRangeExecutor(
            policy,
            record,
            first=0,
            last=len(blocks) - 1,
            positions=stream_positions(blocks[0], spec.blocks.streams),
            streams=spec.blocks.streams,
            peers=executors,
        )
        undo.callback(executor.release)
        for index, block in enumerate(blocks):
            undo.callback(wrap_block(block, index, executor))
        undo.callback(observe_calls(name, denoiser, tracker, executor))
    return record


def install_lemica(pipe: DiffusionPipeline, spec: PipelineSpec, config: LeMiCaConfig, undo: ExitStack) -> RunRecord:
    """The installer of `LeMiCaConfig`: probe and corrector ranges are empty, the schedule decides."""
    return install_policy(pipe, spec, SchedulePolicy(config.cache_schedule), undo)
