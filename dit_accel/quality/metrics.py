"""How far an accelerated video is from the same seed's full run. Every metric compares two videos frame by frame and
returns the mean over frames. The first video is the reference.

All functions take two tensors of equal shape [T, C, H, W], floating point in [0, 1], C = 1 (gray) or 3 (RGB), on any
device; they raise `ConfigError` for anything else and never resize, clamp or convert silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from ..errors import ConfigError, MetricUnavailableError, did_you_mean
from .perceptual import load_network, weight_files

MAX_PSNR = 100.0
MOVING_RANGE = 0.05
_SSIM_SIGMA = 1.5
_SSIM_WINDOW = 11


def psnr(video_a: Tensor, video_b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, per frame, then mean; higher is closer.

    A frame counts at most 100 dB (`MAX_PSNR`), identical frames exactly that, so that means stay finite.

    Raises:
        ConfigError: not two videos as the module describes.
    """
    return _mean(_psnr_of_frames(video_a, video_b))


def psnr_moving(video_a: Tensor, video_b: Tensor) -> float:
    """PSNR in dB over the pixels that move in the reference ``video_a``; NaN if none does.

    A pixel moves if any of its channels spans more than 0.05 (`MOVING_RANGE`) over the frames. Flat backgrounds, which
    every method gets right, inflate the plain PSNR.

    Raises:
        ConfigError: not two videos as the module describes.
    """
    return _mean(_psnr_moving_of_frames(video_a, video_b))


def ssim(video_a: Tensor, video_b: Tensor) -> float:
    """Structural similarity in [-1, 1], per frame, then mean; 1 is identical.

    The original definition: Gaussian weights with sigma 1.5 in an 11 x 11 window, population covariance, mean over
    channels (scikit-image). Frames smaller than 11 pixels average over the largest odd window that fits.

    Raises:
        ConfigError: not two videos as the module describes, or a side under 3 pixels.
        MetricUnavailableError: scikit-image is not installed.
    """
    return _mean(_ssim_of_frames(video_a, video_b))


def lpips(video_a: Tensor, video_b: Tensor) -> float:
    """LPIPS v0.1 with AlexNet, spatial mean, per frame, then mean; 0 is identical, higher is further.

    Equal to the ``lpips`` package on inputs scaled to [-1, 1]. The AlexNet weights come from
    ``$TORCH_HOME/hub/checkpoints`` or are downloaded there; torchvision is not needed.

    Raises:
        ConfigError: not two RGB videos as the module describes, or a side under 31 pixels.
        MetricUnavailableError: the package or the weights are missing or damaged; the message says how to get them.
    """
    return _mean(_perceptual("lpips", video_a, video_b))


def st_lpips(video_a: Tensor, video_b: Tensor) -> float:
    """Shift-tolerant LPIPS (Ghildyal and Liu 2022) with AlexNet, per frame, then mean; 0 is identical.

    Another metric than `lpips` with its own trained trunk: never compare values of the two.

    Raises:
        ConfigError: not two RGB videos as the module describes, or a side under 21 pixels.
        MetricUnavailableError: the package with the weights is missing or damaged; the message says how to get it.
    """
    return _mean(_perceptual("st_lpips", video_a, video_b))


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "psnr": psnr,
    "psnr_moving": psnr_moving,
    "ssim": ssim,
    "lpips": lpips,
    "st_lpips": st_lpips,
}


def values_of_frames(name: str, video_a: Tensor, video_b: Tensor) -> list[float]:
    """A metric of `METRICS` frame by frame; its value is their mean. Raises what the metric raises."""
    return _BY_FRAME[name](video_a, video_b)


def check_metrics(names: Iterable[str]) -> None:
    """Make sure that every metric of ``names`` can be computed, loading (or downloading) what it needs.

    Raises:
        ConfigError: no names, a repeated one or one that is not in `METRICS`.
        MetricUnavailableError: a package or weights are missing; the message says how to get them.
    """
    if isinstance(names, str):
        raise ConfigError(f"metrics must be a sequence of names, got the string {names!r}. Use ({names!r},).")
    names = tuple(names)
    for name in names:
        if name not in METRICS:
            hint = did_you_mean(str(name), METRICS)
            raise ConfigError(f"There is no metric {name!r}. Metrics: {', '.join(METRICS)}.{hint}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"metrics must name at least one metric, each once, got {names}. Metrics: {', '.join(METRICS)}."
        )
    if "ssim" in names:
        _require_scikit_image()
    for name in names:
        if name in ("lpips", "st_lpips"):
            load_network(name)


def unavailable_metrics() -> dict[str, str]:
    """Metric name -> why it cannot be computed right now; empty if all can. Downloads nothing."""
    checks: dict[str, Callable[[], object]] = {
        "ssim": _require_scikit_image,
        "lpips": lambda: weight_files("lpips", download=False),
        "st_lpips": lambda: weight_files("st_lpips", download=False),
    }
    reasons = {}
    for name, check in checks.items():
        try:
            check()
        except MetricUnavailableError as error:
            reasons[name] = str(error)
    return reasons


def _require_scikit_image() -> None:
    if find_spec("skimage") is None:
        raise MetricUnavailableError(
            'ssim needs scikit-image, which is not installed. Run: pip install "dit-accel[quality]"'
        )


def _mean(frames: list[float]) -> float:
    return math.fsum(frames) / len(frames)


def _psnr_of_frames(video_a: Tensor, video_b: Tensor) -> list[float]:
    return [_frame_psnr(_squared_error(a, b).mean()) for a, b in _frames(video_a, video_b)]


def _psnr_moving_of_frames(video_a: Tensor, video_b: Tensor) -> list[float]:
    pairs = list(_frames(video_a, video_b))
    lowest, highest = torch.aminmax(video_a.detach().cpu().double(), dim=0)
    moving = (highest - lowest > MOVING_RANGE).any(dim=0)
    if not moving.any():
        return [math.nan] * len(pairs)
    return [_frame_psnr(_squared_error(a, b)[:, moving].mean()) for a, b in pairs]


def _ssim_of_frames(video_a: Tensor, video_b: Tensor) -> list[float]:
    pairs = list(_frames(video_a, video_b))
    side = min(video_a.shape[-2:])
    if side < 3:
        raise ConfigError(f"ssim needs frames of at least 3 x 3 pixels, got {tuple(video_a.shape[-2:])}. Use psnr.")
    _require_scikit_image()
    compare: Callable[..., float] = import_module("skimage.metrics").structural_similarity
    return [
        float(
            compare(
                a.double().numpy(),
                b.double().numpy(),
                win_size=min(_SSIM_WINDOW, side - 1 + side % 2),
                channel_axis=0,
                data_range=1.0,
                gaussian_weights=True,
                sigma=_SSIM_SIGMA,
                use_sample_covariance=False,
            )
        )
        for a, b in pairs
    ]


def _perceptual(name: str, video_a: Tensor, video_b: Tensor) -> list[float]:
    """The network's distance of each frame; one frame at a time, as large frames fill memory."""
    pairs = list(_frames(video_a, video_b))
    if video_a.shape[1] != 3:
        raise ConfigError(
            f"{name} needs RGB videos [T, 3, H, W], got {tuple(video_a.shape)}. Repeat the gray channel."
        )
    network = load_network(name)
    if min(video_a.shape[-2:]) < network.min_side:
        raise ConfigError(
            f"{name} needs frames of at least {network.min_side} x {network.min_side} pixels, got "
            f"{tuple(video_a.shape[-2:])}. Use psnr and ssim, or resize both videos the same way first."
        )
    return [float(network(a.float()[None], b.float()[None])) for a, b in pairs]


_BY_FRAME: dict[str, Callable[[Tensor, Tensor], list[float]]] = {
    "psnr": _psnr_of_frames,
    "psnr_moving": _psnr_moving_of_frames,
    "ssim": _ssim_of_frames,
    "lpips": partial(_perceptual, "lpips"),
    "st_lpips": partial(_perceptual, "st_lpips"),
}


def _squared_error(frame_a: Tensor, frame_b: Tensor) -> Tensor:
    return (frame_a.double() - frame_b.double()).square()


def _frame_psnr(mean_squared_error: Tensor) -> float:
    error = float(mean_squared_error)
    return MAX_PSNR if error == 0 else min(MAX_PSNR, -10 * math.log10(error))


def _frames(video_a: Tensor, video_b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of CPU frames [C, H, W] of two checked videos."""
    for label, video in (("first", video_a), ("second", video_b)):
        _check_video(label, video)
    if video_a.shape != video_b.shape:
        raise ConfigError(
            f"Both videos must have the same shape, got {tuple(video_a.shape)} and {tuple(video_b.shape)}. Compare "
            "runs of equal resolution and frame count."
        )
    return zip(video_a.detach().cpu(), video_b.detach().cpu(), strict=True)


def _check_video(label: str, video: object) -> None:
    """Raise `ConfigError` unless ``video`` is a finite float tensor [T, 1 or 3, H, W] in [0, 1]."""
    wanted = "A video is a floating-point tensor [T, C, H, W] in [0, 1] with C = 1 or 3."
    if not isinstance(video, Tensor):
        raise ConfigError(f"The {label} video is a {type(video).__name__}. {wanted} Use torch.from_numpy for arrays.")
    if video.ndim != 4 or video.numel() == 0 or video.shape[1] not in (1, 3):
        raise ConfigError(f"The {label} video has shape {tuple(video.shape)}. {wanted} Permute or slice it.")
    if not video.is_floating_point():
        raise ConfigError(f"The {label} video has dtype {video.dtype}. {wanted} Divide 8-bit values by 255.")
    lowest, highest = (float(bound) for bound in torch.aminmax(video.detach()))
    if math.isnan(lowest) or math.isnan(highest):
        raise ConfigError(f"The {label} video holds NaN: the run that made it diverged. {wanted}")
    if lowest < 0 or highest > 1:
        raise ConfigError(
            f"The {label} video spans {lowest:.6g} to {highest:.6g}. {wanted} Rescale or clamp it first."
        )
