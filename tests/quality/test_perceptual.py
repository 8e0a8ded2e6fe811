from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dit_accel.errors import ConfigError, MetricUnavailableError
from dit_accel.quality import lpips, metrics, perceptual, st_lpips
from dit_accel.quality.metrics import check_metrics, unavailable_metrics

needs_lpips = pytest.mark.skipif(find_spec("lpips") is None, reason="the lpips package (its heads) is not installed")
needs_stlpips = pytest.mark.skipif(find_spec("stlpips_pytorch") is None, reason="stlpips_pytorch is not installed")


@pytest.fixture(autouse=True)
def _fresh_networks() -> Iterator[None]:
    perceptual.load_network.cache_clear()
    yield
    perceptual.load_network.cache_clear()


@pytest.fixture
def empty_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place where the AlexNet weights would be, in an empty TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints" / perceptual.ALEXNET_FILE


def video(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blurred(frames: Tensor, times: int) -> Tensor:
    for _ in range(times):
        frames = functional.avg_pool2d(frames, 3, stride=1, padding=1, count_include_pad=False)
    return frames


# LPIPS: where the weights come from


@needs_lpips
def test_missing_weights_say_where_to_get_and_put_them(
    empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for call in (lambda: check_metrics(["lpips"]), lambda: lpips(video(1, 3, 48, 48), video(1, 3, 48, 48))):
        with pytest.raises(MetricUnavailableError) as caught:
            call()
        for words in (perceptual.ALEXNET_URL, str(empty_torch_home), "TORCH_HOME", "Name or service not known"):
            assert words in str(caught.value)
    assert list(empty_torch_home.parent.iterdir()) == []  # no half-downloaded file stays
    assert str(empty_torch_home) in unavailable_metrics()["lpips"]


@needs_lpips
def test_a_damaged_weight_file_is_refused(empty_torch_home: Path) -> None:
    empty_torch_home.parent.mkdir(parents=True)
    empty_torch_home.write_bytes(b"not the weights")
    with pytest.raises(MetricUnavailableError, match=r"expected 7be5be79[0-9a-f]{56}\. Delete it"):
        check_metrics(["lpips"])


@needs_lpips
def test_a_damaged_download_is_refused_and_leaves_no_file(
    empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda _, dst, **__: Path(dst).write_bytes(b"half"))
    with pytest.raises(MetricUnavailableError, match="expected 7be5be79"):
        check_metrics(["lpips"])
    assert list(empty_torch_home.parent.iterdir()) == []


@needs_lpips
def test_a_good_download_is_kept(empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "_ALEXNET_SHA", sha256(b"weights").hexdigest())
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda _, dst, **__: Path(dst).write_bytes(b"weights"))
    assert perceptual.weight_files("lpips")[0] == empty_torch_home
    assert list(empty_torch_home.parent.iterdir()) == [empty_torch_home]


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(MetricUnavailableError, match="pip install --no-deps lpips"):
        check_metrics(["lpips"])
    with pytest.raises(MetricUnavailableError, match="pip install --no-deps stlpips-pytorch"):
        check_metrics(["st_lpips"])


# LPIPS: the arithmetic, on seeded weights (never used to report)


def seeded_weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    backbone = {"classifier.1.bias": torch.zeros(1)}  # the real file holds the classifier as well
    for index, shape in shapes.items():
        fan_in = math.prod(shape[1:])
        backbone[f"features.{index}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        backbone[f"features.{index}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    heads = {
        f"lin{layer}.model.1.weight": torch.rand(1, shape[0], 1, 1, generator=generator)
        for layer, shape in enumerate(shapes.values())
    }
    return backbone, heads


def plain_lpips(a: Tensor, b: Tensor, backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> Tensor:
    """LPIPS of two frames [3, H, W] in [0, 1], written out."""

    def layers(frame: Tensor) -> list[Tensor]:
        mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = ((frame * 2 - 1 - mean[:, None, None]) / deviation[:, None, None])[None]
        found = []
        for index, stride, padding, pool in ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)):
            x = functional.max_pool2d(x, 3, 2) if pool else x
            weight, bias = backbone[f"features.{index}.weight"], backbone[f"features.{index}.bias"]
            x = functional.conv2d(x, weight, bias, stride=stride, padding=padding).clamp(min=0)
            found.append(x[0])
        return found

    total = torch.zeros(())
    for layer, (x, y) in enumerate(zip(layers(a), layers(b), strict=True)):
        unit_x, unit_y = x / (x.norm(dim=0) + 1e-10), y / (y.norm(dim=0) + 1e-10)
        weights = heads[f"lin{layer}.model.1.weight"].reshape(-1, 1, 1)
        total += (weights * (unit_x - unit_y) ** 2).sum(dim=0).mean()
    return total


def test_lpips_is_the_mean_over_frames_of_the_written_out_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, heads = seeded_weights()
    network = perceptual._lpips_network(backbone, heads)
    monkeypatch.setattr(metrics, "load_network", lambda name: network)
    a, b = video(2, 3, 48, 40), video(2, 3, 48, 40, seed=1)
    expected = sum(plain_lpips(x, y, backbone, heads).item() for x, y in zip(a, b, strict=True)) / 2
    assert lpips(a, b) == pytest.approx(expected, rel=1e-5)
    assert lpips(a, a) == 0


def test_min_side_is_exactly_where_the_trunk_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = perceptual._lpips_network(*seeded_weights())
    monkeypatch.setattr(metrics, "load_network", lambda name: network)
    assert lpips(video(1, 3, 31, 31), video(1, 3, 31, 31, seed=1)) > 0
    with pytest.raises(RuntimeError):
        network(video(1, 3, 30, 30), video(1, 3, 30, 30))
    with pytest.raises(ConfigError, match="at least 31 x 31"):
        lpips(video(1, 3, 64, 30), video(1, 3, 64, 30))


@pytest.mark.parametrize("metric", [lpips, st_lpips])
def test_perceptual_metrics_need_colour(metric: object) -> None:
    with pytest.raises(ConfigError, match="RGB"):
        metric(video(1, 1, 48, 48), video(1, 1, 48, 48))


# ST-LPIPS, with its published weights


@needs_stlpips
def test_st_lpips_is_zero_for_identical_videos_and_grows_with_blur() -> None:
    check_metrics(["st_lpips"])
    sharp = (video(1, 3, 6, 6) > 0.5).float().repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    assert st_lpips(sharp, sharp.clone()) == 0
    distances = [st_lpips(sharp, blurred(sharp, times)) for times in (1, 4, 16)]
    assert 0 < distances[0] < distances[1] < distances[2]


@needs_stlpips
def test_st_lpips_tolerates_a_shift_better_than_noise() -> None:
    smooth = blurred(video(1, 3, 64, 64), 4)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert st_lpips(smooth, noisy) > 5 * st_lpips(smooth, smooth.roll(1, dims=3))


@needs_stlpips
def test_st_lpips_min_side() -> None:
    network = perceptual.load_network("st_lpips")
    assert st_lpips(video(1, 3, 21, 21), video(1, 3, 21, 21, seed=1)) > 0
    with pytest.raises(RuntimeError):
        network(video(1, 3, 20, 20), video(1, 3, 20, 20))
    with pytest.raises(ConfigError, match="at least 21 x 21"):
        st_lpips(video(1, 3, 20, 64), video(1, 3, 20, 64))


@needs_stlpips
def test_networks_are_loaded_once() -> None:
    assert perceptual.load_network("st_lpips") is perceptual.load_network("st_lpips")


def test_blur_pool_by_hand() -> None:
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[0, 0, 2, 2] = 1
    # Padded, a row reads 1 0 0 0 1 0 0 0 1: each of the windows at 0, 2, 4, 6 has a single 1 at one of its ends.
    torch.testing.assert_close(perceptual.BlurPool()(impulse)[0, 0], torch.full((4, 4), 1 / 16))
