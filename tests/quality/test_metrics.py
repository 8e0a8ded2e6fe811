from __future__ import annotations

import math
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from dit_accel.errors import ConfigError, MetricUnavailableError
from dit_accel.quality import metrics, psnr, psnr_moving, ssim
from dit_accel.quality.metrics import METRICS, check_metrics, unavailable_metrics

needs_skimage = pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image is not installed")


def video(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# PSNR


def test_psnr_of_a_constant_offset() -> None:
    reference = torch.full((3, 3, 8, 8), 0.25, dtype=torch.float64)
    assert psnr(reference, reference + 0.1) == pytest.approx(20, abs=1e-9)  # MSE 0.01


def test_psnr_is_the_mean_over_frames_not_of_the_error() -> None:
    reference = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    other = torch.stack([reference[0] + 0.1, reference[1] + 0.01])
    assert psnr(reference, other) == pytest.approx((20 + 40) / 2)


def test_psnr_of_identical_videos_is_the_cap() -> None:
    reference = video(2, 3, 8, 8)
    assert psnr(reference, reference.clone()) == metrics.MAX_PSNR == 100
    assert psnr(reference, reference.double() * (1 - 1e-9)) == 100


def test_psnr_accepts_half_precision_and_gradients() -> None:
    reference = torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)
    assert psnr(reference, torch.full((1, 3, 4, 4), 0.5, requires_grad=True)) == pytest.approx(20 * math.log10(2))


def test_psnr_moving_counts_only_pixels_that_move_in_the_reference() -> None:
    reference = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    reference[1, 2, 0, 0] = 0.5  # one pixel moves, in one channel
    other = reference.clone()
    other[:, :, 0, 0] += 0.1
    other[:, :, 3, 3] += 0.4  # still in the reference: does not count
    assert psnr_moving(reference, other) == pytest.approx(20)


def test_psnr_moving_ignores_small_flicker_and_is_nan_for_still_videos() -> None:
    reference = torch.zeros(2, 3, 4, 4)
    reference[1] = 0.04
    assert math.isnan(psnr_moving(reference, reference))
    assert math.isnan(psnr_moving(video(1, 3, 4, 4), video(1, 3, 4, 4, seed=1)))


# SSIM


@needs_skimage
@pytest.mark.parametrize("size", [(48, 48), (4, 9), (3, 3)])
def test_ssim_of_identical_videos_is_one(size: tuple[int, int]) -> None:
    reference = video(2, 3, *size)
    assert ssim(reference, reference.clone()) == pytest.approx(1, abs=1e-12)


@needs_skimage
def test_ssim_of_flat_frames_is_the_luminance_term() -> None:
    a, b = torch.full((1, 3, 16, 16), 0.2, dtype=torch.float64), torch.full((1, 3, 16, 16), 0.6, dtype=torch.float64)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), abs=1e-9)


@needs_skimage
def test_ssim_against_the_definition() -> None:
    a, b = video(1, 1, 11, 11).double(), video(1, 1, 11, 11, seed=1).double()
    taps = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps)
    window /= window.sum()
    x, y = a[0, 0], b[0, 0]  # one 11 x 11 window fits, so the mean is the value of the centre pixel
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * x * x).sum() - mean_x**2, (window * y * y).sum() - mean_y**2
    cov = (window * x * y).sum() - mean_x * mean_y
    expected = (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4)
    expected /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    assert ssim(a, b) == pytest.approx(expected.item(), abs=1e-9)


@needs_skimage
def test_ssim_rejects_tiny_frames() -> None:
    with pytest.raises(ConfigError, match="at least 3 x 3"):
        ssim(video(1, 3, 2, 8), video(1, 3, 2, 8))


def test_ssim_without_scikit_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    for call in (lambda: check_metrics(["ssim"]), lambda: ssim(video(1, 3, 8, 8), video(1, 3, 8, 8))):
        with pytest.raises(MetricUnavailableError, match=r'pip install "dit-accel\[quality\]"'):
            call()
    assert "scikit-image" in unavailable_metrics()["ssim"]


# Bad input: the same checks guard every metric


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("second", "words"),
    [
        (video(2, 3, 8, 9), "same shape"),
        (video(3, 8, 8), r"\[T, C, H, W\]"),
        (video(2, 4, 8, 8), "C = 1 or 3"),
        (torch.zeros(0, 3, 8, 8), r"\(0, 3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "Divide 8-bit values by 255"),
        (torch.full((2, 3, 8, 8), 1.5), "spans 1.5 to 1.5"),
        (torch.full((2, 3, 8, 8), -0.5), "spans -0.5"),
        (torch.full((2, 3, 8, 8), math.inf), "spans inf"),
        (torch.full((2, 3, 8, 8), math.nan), "NaN"),
        ([1.0], "is a list"),
    ],
)
def test_bad_videos_are_refused(name: str, second: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        METRICS[name](video(2, 3, 8, 8), second)


@pytest.mark.parametrize(
    ("names", "words"),
    [(("psnrr",), "Did you mean 'psnr'"), ((), "at least one"), (("psnr", "psnr"), "each once"), ("psnr", "sequence")],
)
def test_check_metrics_refuses_bad_names(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_metrics(names)


def test_importing_the_package_imports_no_optional_dependency() -> None:
    optional = {"lpips", "skimage", "diffusers", "torchvision", "stlpips_pytorch"}
    code = f"import sys, dit_accel.quality; sys.exit(', '.join({optional} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
