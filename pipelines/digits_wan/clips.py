"""Ground truth: scikit-learn's handwritten digits moving over a 48x48 canvas, nine frames, rendered from a caption."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from .captions import BACKGROUNDS, COLOURS, DIGITS, Caption

SIZE_PX = 48
NUM_FRAMES = 9
GLYPH_PX = 32
PROTOTYPES_PER_DIGIT = 12


@functools.lru_cache(1)
def glyphs() -> tuple[Tensor, np.ndarray]:
    """All 1,797 digits of scikit-learn as smooth alpha masks [N, 1, 32, 32] in [0, 1], and their labels [N]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = F.pad(torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, (1, 1, 1, 1))
    images = F.interpolate(images, size=(GLYPH_PX, GLYPH_PX), mode="bicubic", align_corners=False)
    return torch.sigmoid((images - 0.47) * 12), bunch.target


@functools.lru_cache(1)
def prototypes() -> dict[str, np.ndarray]:
    """Digit word -> indices of the handwritings that are drawn: those nearest to the 12 k-means centres of the class.

    A small model cannot learn 1,797 shapes in an hour of CPU time; twelve typical hands a digit it can.
    """
    from sklearn.cluster import KMeans

    masks, labels = glyphs()
    flat = masks.flatten(1).numpy()
    chosen = {}
    for value, word in enumerate(DIGITS):
        members = np.flatnonzero(labels == value)
        fit = KMeans(PROTOTYPES_PER_DIGIT, n_init=4, random_state=0).fit(flat[members])
        nearest = fit.transform(flat[members]).argmin(axis=0)
        chosen[word] = np.unique(members[nearest])
    return chosen


def _path(motion: str, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre x, centre y, half box size (pixels) and angle (radians), each [9], of one glyph following ``motion``."""
    t = np.linspace(0, 1, NUM_FRAMES)
    flat = np.ones_like(t)
    x, y = rng.uniform(18, 30) * flat, rng.uniform(18, 30) * flat
    half, angle = rng.uniform(13.5, 15.5) * flat, rng.uniform(-0.12, 0.12) * flat
    travel = rng.uniform(16, 21)
    start = 13 + rng.uniform(0, 22 - travel)
    if motion == "moving left":
        x = start + travel * (1 - t)
    elif motion == "moving right":
        x = start + travel * t
    elif motion == "moving up":
        y = start + travel * (1 - t)
    elif motion == "moving down":
        y = start + travel * t
    elif motion == "bouncing":
        y = 35 - 22 * np.abs(np.sin(np.pi * (1.5 * t + rng.uniform(0, 1))))
    else:  # spinning, growing, shrinking stay near the middle
        x, y = rng.uniform(21, 27) * flat, rng.uniform(21, 27) * flat
        small, large = rng.uniform(7, 9), rng.uniform(18, 21)
        if motion == "spinning":
            angle = angle + 2 * np.pi * rng.uniform(0.5, 0.8) * t
        elif motion == "growing":
            half = small + (large - small) * t
        else:
            half = large + (small - large) * t
    return x, y, half, angle


def _affine(x: np.ndarray, y: np.ndarray, half: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Canvas -> glyph coordinates as affine matrices [9, 2, 3] for ``affine_grid``."""
    scale = (SIZE_PX / 2) / half
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    dx, dy = (x - SIZE_PX / 2) / (SIZE_PX / 2), (y - SIZE_PX / 2) / (SIZE_PX / 2)
    rows = [np.stack([cos, sin, -(cos * dx + sin * dy)], -1), np.stack([-sin, cos, sin * dx - cos * dy], -1)]
    return np.stack(rows, -2).astype(np.float32)


def render(captions: list[Caption], rng: Generator, *, every_hand: bool = False) -> Tensor:
    """Draw one random clip per caption.

    Args:
        captions: what to draw.
        rng: numpy generator; the only source of randomness.
        every_hand: draw from all 1,797 handwritings instead of the prototypes (the scorer is trained so).

    Returns:
        uint8 videos [B, 3, 9, 48, 48].
    """
    masks, labels = glyphs()
    by_word = {w: np.flatnonzero(labels == i) for i, w in enumerate(DIGITS)} if every_hand else prototypes()
    index = [rng.choice(by_word[c.digit]) for c in captions]
    theta = torch.from_numpy(np.concatenate([_affine(*_path(c.motion, rng)) for c in captions]))
    grid = F.affine_grid(theta, [len(theta), 1, SIZE_PX, SIZE_PX], align_corners=False)
    source = masks[index].repeat_interleave(NUM_FRAMES, 0)
    alpha = F.grid_sample(source, grid, align_corners=False, padding_mode="zeros")
    alpha = alpha.view(len(captions), 1, NUM_FRAMES, SIZE_PX, SIZE_PX)

    def shades(palette: dict[str, tuple[int, int, int]], names: list[str], jitter: float) -> Tensor:
        base = np.array([palette[name] for name in names], np.float32)
        return torch.from_numpy(base + rng.uniform(-jitter, jitter, base.shape).astype(np.float32))[
            :, :, None, None, None
        ]

    ink = shades(COLOURS, [c.colour for c in captions], 12).clamp(0, 255)
    ground = shades(BACKGROUNDS, [c.background for c in captions], 0)
    slope = torch.from_numpy(rng.uniform(-12, 12, (len(captions), 1, 1, 1, 1)).astype(np.float32))
    ground = (ground + slope * torch.linspace(-1, 1, SIZE_PX)[:, None]).clamp(0, 255)
    return (ground * (1 - alpha) + ink * alpha).round().clamp(0, 255).to(torch.uint8)
