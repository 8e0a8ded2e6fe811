"""How large the tiles of the attention kernel are: the first that fit into the shared memory of the GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.compiler.compiler import max_shared_mem

from ..errors import ConfigError

# Queries and keys of a tile, how many tiles of keys are on their way at a time, and how many programs share a
# multiprocessor; the first that fits into shared memory is taken. With two, one multiplies while the other takes
# exponentials: on an H200 a tenth faster than any single one, although half of the registers are too few for either.
# With fewer queries to a tile it waits for its L2 cache. Exact float32 products take registers instead.
_TILES = ((128, 128, 2, 2), (128, 64, 2, 2), (128, 64, 3, 1), (128, 64, 2, 1), (128, 32, 2, 1), (64, 32, 2, 1))
_TILES_FLOAT32 = ((64, 32, 2, 1), (64, 16, 1, 1))
_DRIVER_BYTES = _COMPILER_BYTES = 1 << 10  # of shared memory, for each program
_NUM_WARPS, _REGISTERS = 8, 1 << 16  # of a program, and of a multiprocessor


class Shape(NamedTuple):
    """What the attention kernel is compiled for, each a `tl.constexpr`: channels, and channels as loaded; queries,
    keys and stand-ins of a tile."""

    D: Any
    BLOCK_D: Any
    BLOCK_M: Any
    BLOCK_N: Any
    BLOCK_C: Any


def tile_shape(dim: int, dtype: torch.dtype, shared_memory: int) -> tuple[Shape, dict[str, int]]:
    """What to compile for, and the options of the compiler.

    Raises:
        ConfigError: no tile fits into ``shared_memory`` bytes.
    """
    block_dim = max(16, triton.next_power_of_2(dim))
    for block_m, block_n, num_stages, num_programs in _TILES_FLOAT32 if dtype == torch.float32 else _TILES:
        block_c = max(16, block_n // 2)
        # Queries, and keys and values of each stage; then queries, their squares, and three tables of each stage.
        rows = max(block_m + 2 * num_stages * block_n, 2 * block_m + 3 * num_stages * block_c)
        taken = rows * block_dim * dtype.itemsize + _COMPILER_BYTES + _DRIVER_BYTES
        if num_programs * taken <= shared_memory + _DRIVER_BYTES:
            options = {"num_warps": _NUM_WARPS, "num_stages": num_stages}
            if num_programs > 1:
                options["maxnreg"] = _REGISTERS // (32 * _NUM_WARPS * num_programs)
            return Shape(*map(tl.constexpr, (dim, block_dim, block_m, block_n, block_c))), options
    raise ConfigError(
        f'The backend "triton" has no tile for {dim} channels of {dtype} that fits into {shared_memory >> 10} KiB of '
        'shared memory. Use backend="torch".'
    )


def shared_memory(device: torch.device) -> int:
    """Bytes that a program may use; as on an H100 where there is no GPU and Triton interprets."""
    if device.type == "cuda":
        return max_shared_mem(device.index)
    return 227 << 10
