"""Pictures to condition tiny pipelines on: fixed random pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes of the given shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noise_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    return Image.fromarray(noise_pixels(height, width, 3, seed=seed))
