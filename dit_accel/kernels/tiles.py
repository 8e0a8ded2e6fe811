"""How large the tiles of the attention kernel are: the first that fit into the shared memory of the GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.compiler.compiler import max_shared_mem

from ..errors import ConfigError

# Queries and keys of a tile, and how many tiles of keys are on their way at a time; the first that fits into shared
# memory is taken. From the sizes of memories and registers, not measured: with fewer queries to a tile, an H100 would
# wait for its L2 cache. Exact float32 products take registers instead.
_TILES = ((128, 128, 3), (128, 64, 3), (128, 64, 2), (128, 32, 2), (64, 32, 2))
_TILES_FLOAT32 = ((64, 32, 2), (64, 16, 1))
_SHARED_MARGIN = 8 << 10  # bytes that the compiler wants for itself


class Shape(NamedTuple):
    """What the attention kernel is compiled for, each a `tl.constexpr`: channels, and channels as loaded; queries,
    keys and stand-ins of a tile."""

    D: Any
    BLOCK_D: Any
    BLOCK_M: Any
    BLOCK_N: Any
    BLOCK_C: Any


def tile_shape(dim: int, dtype: torch.dtype, shared_memory: int) -> tuple[Shape, int]:
    """What to compile for, and how many tiles of keys are on their way at a time.

    Raises:
        ConfigError: no tile fits into ``shared_memory`` bytes.
    """
    block_dim = max(16, triton.next_power_of_2(dim))
    for block_m, block_n, num_stages in _TILES_FLOAT32 if dtype == torch.float32 else _TILES:
        block_c = max(16, block_n // 2)
        # Queries, and keys and values of each stage; then queries, their squares, and three tables of each stage.
        rows = max(block_m + 2 * num_stages * block_n, 2 * block_m + 3 * num_stages * block_c)
        if rows * block_dim * dtype.itemsize + _SHARED_MARGIN <= shared_memory:
            return Shape(*map(tl.constexpr, (dim, block_dim, block_m, block_n, block_c))), num_stages
    raise ConfigError(
        f'The backend "triton" has no tile for {dim} channels of {dtype} that fits into {shared_memory >> 10} KiB of '
        'shared memory. Use backend="torch".'
    )


def shared_memory(device: torch.device) -> int:
    """Bytes that a program may use; as on an H100 where there is no GPU and Triton interprets."""
    if device.type == "cuda":
        return max_shared_mem(device.index)
    return 227 << 10
