"""Sizes of tiles, from the shared memory that there is."""

from __future__ import annotations

import pytest
import torch

from dit_accel.errors import ConfigError
from dit_accel.kernels.tiles import tile_shape


def test_tiles_shrink_until_they_fit() -> None:
    def found(dim: int, dtype: torch.dtype, kilobytes: int) -> tuple[int, int, int, int | None]:
        shape, options = tile_shape(dim, dtype, kilobytes << 10)
        return shape.BLOCK_M.value, shape.BLOCK_N.value, options["num_stages"], options.get("maxnreg")

    assert found(128, torch.bfloat16, 227) == (128, 64, 2, 128)  # H100: two at a time
    assert found(64, torch.bfloat16, 227) == (128, 128, 2, 128)
    assert found(128, torch.bfloat16, 163) == (128, 64, 3, None)  # A100
    assert found(128, torch.bfloat16, 99) == (128, 32, 2, None)  # RTX 4090
    assert found(128, torch.float32, 227) == (64, 32, 2, None)
    with pytest.raises(ConfigError, match=r"no tile for 1024 channels of torch.float32 .* 99 KiB"):
        tile_shape(1024, torch.float32, 99 << 10)
