"""Objective prompt adherence from pixels alone: colour, digit, motion and background of a generated clip.

Colour and background are the nearest palette entries; motion comes from centroid, area and path; the digit from a
support-vector classifier trained on rendered clips of *all* 1,797 handwritings. Nothing here sees the model.
"""

from __future__ import annotations

import functools
from dataclasses import astuple, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.svm import SVC

from .captions import BACKGROUNDS, COLOURS, DIGITS, Caption, all_captions
from .clips import SIZE_PX, render

FEATURE_PX = 14
TRAINING_CLIPS = 3000


@dataclass(frozen=True)
class Glyph:
    """What is extracted from a clip: ground and ink colours [3] in 0..255, and a soft mask [T, H, W] in [0, 1]."""

    ground: np.ndarray
    ink: np.ndarray
    mask: np.ndarray


def extract(video: np.ndarray) -> Glyph:
    """Separate the glyph of a uint8 clip [T, H, W, 3] from its ground, the most common colour."""
    pixels = video.astype(np.float32)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    distance = np.linalg.norm(pixels - ground, axis=-1)
    high = max(float(np.percentile(distance, 99.0)), 1.0)
    core = distance > 0.85 * high
    ink = pixels[core].mean(0) if core.any() else ground
    return Glyph(ground, ink, np.clip(distance / high, 0, 1))


def digit_features(mask: np.ndarray) -> np.ndarray:
    """A frame's mask [H, W], cropped to its glyph and resampled to 14x14, flat."""
    rows, columns = np.where(mask > 0.5)
    if len(rows) < 8:
        return np.zeros(FEATURE_PX**2, np.float32)
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + 2
    centre = [(axis.min() + axis.max() + 1 - SIZE_PX) / SIZE_PX for axis in (columns, rows)]
    zoom = half / (SIZE_PX / 2)
    theta = torch.tensor([[[zoom, 0, centre[0]], [0, zoom, centre[1]]]], dtype=torch.float32)
    grid = F.affine_grid(theta, [1, 1, FEATURE_PX, FEATURE_PX], align_corners=False)
    source = torch.tensor(mask, dtype=torch.float32)[None, None]
    return F.grid_sample(source, grid, align_corners=False).numpy().ravel()


def classify_motion(mask: np.ndarray) -> str:
    """The motion of a mask [T, H, W], by its size, its displacement and its path."""
    rows, columns = np.mgrid[: mask.shape[1], : mask.shape[2]]
    weight = np.where(mask > 0.3, mask, 0)
    area = weight.sum((1, 2)) + 1e-3
    x, y = (weight * columns).sum((1, 2)) / area, (weight * rows).sum((1, 2)) / area
    dx, dy = x[-1] - x[0], y[-1] - y[0]
    growth = np.sqrt(area[-2:].mean() / area[:2].mean())
    if growth > 1.5:
        return "growing"
    if growth < 0.67:
        return "shrinking"
    if abs(dx) > 8 and abs(dx) > abs(dy):
        return "moving right" if dx > 0 else "moving left"
    if np.abs(np.diff(y)).sum() > 1.6 * abs(dy) and np.ptp(y) > 6:
        return "bouncing"
    if abs(dy) > 8:
        return "moving down" if dy > 0 else "moving up"
    return "spinning"


@functools.lru_cache(1)
def _classifier() -> SVC:
    rng = np.random.default_rng(5)
    captions = all_captions()
    picked = [captions[i] for i in rng.integers(len(captions), size=TRAINING_CLIPS)]
    features = []
    for start in range(0, TRAINING_CLIPS, 100):
        clips = render(picked[start : start + 100], rng, every_hand=True)
        features += [digit_features(extract(clip).mask[0]) for clip in clips.permute(0, 2, 3, 4, 1).numpy()]
    return SVC(C=10, gamma="scale").fit(np.array(features), [DIGITS.index(c.digit) for c in picked])


def _readable_frames(mask: np.ndarray, motion: str) -> np.ndarray:
    """The frames in which the digit is large and upright enough to be read."""
    return {"spinning": mask[:2], "growing": mask[4:], "shrinking": mask[:5]}.get(motion, mask[1:-1])


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(np.array(palette[name]) - colour)))


def read_clip(video: np.ndarray, asked: Caption) -> Caption:
    """What a uint8 clip [T, H, W, 3] shows. ``asked.motion`` only selects the frames in which the digit is read."""
    glyph = extract(video)
    votes = _classifier().predict(np.array([digit_features(m) for m in _readable_frames(glyph.mask, asked.motion)]))
    return Caption(
        colour=_nearest(glyph.ink, COLOURS),
        digit=DIGITS[int(np.bincount(votes, minlength=len(DIGITS)).argmax())],
        motion=classify_motion(glyph.mask),
        background=_nearest(glyph.ground, BACKGROUNDS),
    )


def score(videos: list[np.ndarray], captions: list[Caption]) -> dict[str, float]:
    """Share of clips, in [0, 1], that show the asked colour, digit, motion and background, and all four."""
    read = [read_clip(video, caption) for video, caption in zip(videos, captions, strict=True)]
    hits = np.array(
        [[a == b for a, b in zip(astuple(r), astuple(c), strict=True)] for r, c in zip(read, captions, strict=True)]
    )
    shares = dict(zip(("colour", "digit", "motion", "background"), hits.mean(0).tolist(), strict=True))
    return {**shares, "all": float(hits.all(1).mean())}
