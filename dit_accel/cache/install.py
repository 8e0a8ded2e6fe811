"""Installs a cache policy on the denoisers of a pipeline, and takes it away again."""

from __future__ import annotations

import functools
from collections.abc import Callable

from .._diffusers import rank_sum, wrap_forward
from ..configs import DBCacheConfig
from ..installation import Installation, Run
from ..running import Running
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
    for name, denoiser in installation.denoisers.items():
        block_range = BlockRange.of(
            name,
            denoiser,
            installation.spec.denoisers[name],
            probe_blocks=probe_blocks,
            corrector_blocks=corrector_blocks,
        )
        running: Running[BlockRangeExecutor] = Running()
        for index, block in enumerate(block_range.blocks):
            wrap = functools.partial(
                BlockRangeExecutor.block_forward,
                running,
                block_range,
                index,
                uses_probe=policy.uses_probe,
                reuses_output=reuses_output,
            )
            installation.undo.callback(wrap_forward(block, wrap))

        make = functools.partial(
            BlockRangeExecutor,
            policy,
            block_range=block_range,
            reuses_output=reuses_output,
            rank_sum=functools.partial(rank_sum, denoiser),
            is_inner=is_inner,
            running=running,
        )
        installation.observe_runs(name, functools.partial(_executor_of_run, make, policy))


def _executor_of_run(make: Callable[..., BlockRangeExecutor], policy: CachePolicy, run: Run) -> BlockRangeExecutor:
    """What observes the denoiser in ``run``."""
    return make(record=run.record, peers=run.peers[policy])


def install_dbcache(installation: Installation, config: DBCacheConfig) -> None:
    """The installer of `DBCacheConfig`: the probe blocks' residual decides."""
    install_policy(
        installation,
        DBCachePolicy(config),
        probe_blocks=config.probe_blocks,
        corrector_blocks=config.corrector_blocks,
    )
