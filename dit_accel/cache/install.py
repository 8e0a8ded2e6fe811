"""Installs a cache policy on the denoisers of a pipeline, and takes it away again."""

from __future__ import annotations

import functools

from .._diffusers import rank_sum, wrap_forward
from ..configs import DBCacheConfig
from ..installation import Installation
from .block_range import BlockRange
from .executor import BlockRangeExecutor
from .policies import CachePolicy, DBCachePolicy


def install_policy(
    installation: Installation,
    policy: CachePolicy,
    *,
    probe_blocks: int = 0,
    corrector_blocks: int = 0,
    reuses_output: bool = False,
    is_inner: bool = False,
) -> None:
    """Cache the blocks of every denoiser under ``policy``.

    Args:
        installation: the pipeline.
        policy: decides compute or reuse, shared by all denoisers.
        probe_blocks, corrector_blocks: blocks that always run, before and after the cached ones.
        reuses_output: reuse the denoiser's output rather than the residual.
        is_inner: a policy for more blocks is installed after this one.

    Raises:
        ConfigError: probe and corrector leave no block to cache.
        UnsupportedPipelineError: a denoiser is not laid out as its specification says.
    """
    executors: list[BlockRangeExecutor] = []
    undo = installation.undo
    for name, denoiser in installation.denoisers.items():
        block_range = BlockRange.of(
            name,
            denoiser,
            installation.spec.denoisers[name],
            probe_blocks=probe_blocks,
            corrector_blocks=corrector_blocks,
        )
        executor = BlockRangeExecutor(
            policy,
            installation.record,
            block_range,
            reuses_output=reuses_output,
            rank_sum=functools.partial(rank_sum, denoiser),
            peers=executors,
            is_inner=is_inner,
        )
        undo.callback(executor.release)
        for index, block in enumerate(block_range.blocks):
            undo.callback(wrap_forward(block, functools.partial(executor.block_forward, index)))
        installation.observe(name, executor)


def install_dbcache(installation: Installation, config: DBCacheConfig) -> None:
    """The installer of `DBCacheConfig`: the probe blocks' residual decides."""
    install_policy(
        installation,
        DBCachePolicy(config),
        probe_blocks=config.probe_blocks,
        corrector_blocks=config.corrector_blocks,
    )
