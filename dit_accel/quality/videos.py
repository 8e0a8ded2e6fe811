"""Videos as small MP4 files, which any browser plays: what `evaluate` keeps and `QualityReport.to_html` shows.

They are for looking at. Small frames are enlarged, large ones are shrunk and all are compressed; the metrics are of
what the pipeline gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..documents import quoted, read_bytes, replacing
from ..errors import ConfigError

BASELINE = "baseline"
DIFFERENCE_GAIN = 4
MAX_FPS = 240
MAX_VIDEO_BYTES = 64 << 20  # that a page takes in
_SHORT_SIDE, _LONG_SIDE = 192, 512
_CONSTANT_RATE_FACTOR = 18  # of H.264: small artefacts would pass for those of the acceleration
_KEYFRAME_EVERY = 8  # a slider seeks to any frame: the browser decodes at most so many for one


def video_file(prompt: int, seed: int, label: int, *, is_difference: bool = False) -> str:
    """The file name of a video by the places of its prompt and its label; label 0 is the baseline, row k is k + 1."""
    return f"prompt{prompt:03d}-seed{seed}-{label:02d}{'-difference' if is_difference else ''}.mp4"


def check_videos(folder: str | Path | None, fps: int) -> None:
    """Make the folder, or raise `ConfigError` if it or ``fps`` cannot be used."""
    if type(fps) is not int or not 1 <= fps <= MAX_FPS:
        raise ConfigError(f"fps must be an integer from 1 to {MAX_FPS}, got {quoted(fps)}.")
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(f"The folder for videos {str(folder)!r} cannot be made: {problem}. Give another.") from None


def write_videos(folder: Path, prompt: int, seed: int, videos: Mapping[str, Tensor], fps: int) -> None:
    """Write the baseline, which comes first in ``videos``, each other video, and how each differs from it.

    Args:
        folder: receives the files, each at once.
        prompt: place of the prompt in the report's list.
        seed: seed of the videos.
        videos: label -> [T, C, H, W] float in [0, 1].
        fps: frames a second.
    """
    reference = next(iter(videos.values()))
    for label, video in enumerate(videos.values()):
        write_video(folder / video_file(prompt, seed, label), video, fps)
        if label:
            difference = ((video - reference).abs() * DIFFERENCE_GAIN).clamp(0, 1)
            write_video(folder / video_file(prompt, seed, label, is_difference=True), difference, fps)


def write_video(path: Path, video: Tensor, fps: int) -> None:
    """An MP4 of [T, C, H, W] in [0, 1], C = 1 or 3, with frames of a size to look at."""
    shown = _resized(video.float().expand(-1, 3, -1, -1))
    frames = (shown.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    with replacing(path.absolute()) as unfinished:  # absolute: ffmpeg takes a name with '-' or ':' for something else
        iio.imwrite(
            unfinished,
            np.ascontiguousarray(frames),
            plugin="FFMPEG",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            output_params=["-crf", str(_CONSTANT_RATE_FACTOR), "-g", str(_KEYFRAME_EVERY), "-movflags", "+faststart"],
        )


def read_video(path: Path) -> bytes:
    """The content of a video that `write_video` wrote.

    Raises:
        ConfigError: missing, over 64 MiB, or no MP4: a page is shown to others, and a link to any file may lie there.
    """
    content = read_bytes(path, MAX_VIDEO_BYTES, ConfigError, "video")
    if content[4:8] != b"ftyp":
        raise ConfigError(f"{path} is no MP4 video. Give the folder that evaluate(videos=...) wrote.")
    return content


def _resized(video: Tensor) -> Tensor:
    """Enlarged by a whole factor, or shrunk, to sides between the two limits; even ones, as the codec wants them."""
    height, width = video.shape[-2:]
    if min(height, width) < _SHORT_SIDE and max(height, width) * 2 <= _LONG_SIDE:
        factor = min(-(-_SHORT_SIDE // min(height, width)), _LONG_SIDE // max(height, width))
        video = video.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    elif max(height, width) > _LONG_SIDE:
        scale = _LONG_SIDE / max(height, width)
        size = [max(2, round(height * scale)), max(2, round(width * scale))]
        video = interpolate(video, size, mode="bilinear", antialias=True).clamp(0, 1)
    height, width = video.shape[-2:]
    return pad(video, (0, width % 2, 0, height % 2), mode="replicate")
