"""The networks of LPIPS and ST-LPIPS, in torch alone, with the published weights and never with others.

Both are AlexNet-shaped: the features behind the five ReLUs are normalised over channels, their squared difference is
weighted by one linear head a layer, and the spatial means are added. Importing the ``lpips`` or ``stlpips_pytorch``
package would need torchvision (and more), so only their weight files are read; every file's sha256 is checked, as a
damaged or replaced one would give plausible but wrong numbers.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..documents import sha256
from ..errors import MetricUnavailableError

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"
# SHA-256: the first eight digits that the files' names carry could be met on purpose.
_ALEXNET_SHA = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
_HEADS_SHA = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
_ST_SHA = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
_ALEXNET_TAPS = (1, 4, 7, 9, 11)
_ST_TAPS = (2, 6, 10, 12, 14)


class BlurPool(nn.Module):
    """Low-pass filter (1 2 1 in both directions), then every second pixel: [N, C, H, W] -> [N, C, ~H/2, ~W/2].

    Reflects 2 pixels at every border, twice what the filter needs, as the published ST-LPIPS weights were trained so.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter and halve ``x``."""
        channels = x.shape[1]
        padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, self.kernel.expand(channels, 1, 3, 3), stride=2, groups=channels)


class PerceptualDistance(nn.Module):
    """Weighted distance of normalised features, summed over the layers.

    Args:
        trunk: the feature layers; the taps are indices into it.
        taps: layers whose outputs are compared, increasing.
        heads: for every tap the channel weights, [1, channels, 1, 1].
        min_side: the smallest height and width in pixels that reaches the last tap.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: nn.Sequential, taps: Sequence[int], heads: Sequence[Tensor], min_side: int) -> None:
        super().__init__()
        self.trunk = trunk[: taps[-1] + 1]
        self.taps = tuple(taps)
        self.heads = nn.ParameterList(heads)
        self.min_side = min_side
        # ImageNet's mean and deviation, in the [-1, 1] scale in which LPIPS takes its input.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])
        self.eval().requires_grad_(False)

    def features(self, frames: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [0, 1] -> the normalised features of every tap."""
        x = (2 * frames - 1 - self.shift) / self.scale
        found = []
        for index, layer in enumerate(self.trunk.children()):
            x = layer(x)
            if index in self.taps:
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found

    @torch.no_grad()
    def forward(self, frames_a: Tensor, frames_b: Tensor) -> Tensor:
        """Two [N, 3, H, W] in [0, 1] -> [N] distances."""
        layers = zip(self.features(frames_a), self.features(frames_b), self.heads, strict=True)
        maps = [functional.conv2d((a - b).square(), head).mean(dim=(1, 2, 3)) for a, b, head in layers]
        return torch.stack(maps).sum(dim=0)


@lru_cache(maxsize=2)
def load_network(name: str) -> PerceptualDistance:
    """The network of ``"lpips"`` or ``"st_lpips"`` on the CPU in float32, loaded once per process.

    Raises:
        MetricUnavailableError: a package or weights are missing or damaged; the message says how to get them.
    """
    files = weight_files(name)
    if name == "lpips":
        backbone, heads = (_read(path) for path in files)
        return _lpips_network(backbone, heads)
    return _st_lpips_network(_read(files[0]))


def weight_files(name: str, *, download: bool = True) -> tuple[Path, ...]:
    """The checked weight files of a network: AlexNet and heads for ``"lpips"``, one file for ``"st_lpips"``.

    Raises:
        MetricUnavailableError: a file is missing (and, with ``download``, cannot be downloaded) or damaged.
    """
    if name == "lpips":
        heads = _packaged("lpips", "pip install --no-deps lpips", Path("weights", "v0.1", "alex.pth"), _HEADS_SHA)
        return _alexnet_file(download), heads
    path = Path("weights", "vST0.0", "alex_shift_tolerant.pth")
    return (_packaged("stlpips_pytorch", "pip install --no-deps stlpips-pytorch==0.0.2", path, _ST_SHA),)


def _lpips_network(backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> PerceptualDistance:
    """From torchvision's AlexNet weights (``features.*``) and the heads of the lpips package."""
    trunk = _alexnet()
    trunk.load_state_dict({key[len("features.") :]: backbone[key] for key in backbone if key.startswith("features.")})
    return PerceptualDistance(trunk, _ALEXNET_TAPS, _heads(heads), min_side=31)


def _st_lpips_network(weights: Mapping[str, Tensor]) -> PerceptualDistance:
    """From the weights of stlpips_pytorch: ``net.slice<i>.<layer>.*`` and the heads."""
    trunk = _st_alexnet()
    # The file also holds the blur kernels (`filt`), which are constants here.
    names = [key for key in weights if key.startswith("net.") and not key.endswith(".filt")]
    trunk.load_state_dict({key.split(".", 2)[2]: weights[key] for key in names})
    return PerceptualDistance(trunk, _ST_TAPS, _heads(weights), min_side=21)


def _heads(weights: Mapping[str, Tensor]) -> list[Tensor]:
    return [weights[f"lin{index}.model.1.weight"] for index in range(5)]


def _alexnet() -> nn.Sequential:
    """AlexNet's feature layers up to the last ReLU, with torchvision's indices."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _st_alexnet() -> nn.Sequential:
    """The shift-tolerant AlexNet: no strides but in `BlurPool`, with the published file's indices."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, padding=2), BlurPool(), nn.ReLU(), nn.MaxPool2d(3, 1), BlurPool()),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 1), BlurPool()),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _packaged(package: str, install: str, relative: Path, expected: str) -> Path:
    """A checked weight file of an installed package, found without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MetricUnavailableError(
            f"The package {package}, whose weights are needed, is not installed. Run: {install}"
        )
    path = Path(spec.submodule_search_locations[0], relative)
    if not path.is_file():
        raise MetricUnavailableError(f"The installed {package} lacks {relative}. Run: {install} --force-reinstall")
    _check_hash(path, expected, f"Run: {install} --force-reinstall")
    return path


def _alexnet_file(download: bool) -> Path:
    """torchvision's AlexNet weights, from torch's hub cache or downloaded into it."""
    path = Path(torch.hub.get_dir(), "checkpoints", ALEXNET_FILE)
    shown = _shown(path)
    remedy = f"Download {ALEXNET_URL} on a connected machine and save it as {shown} (TORCH_HOME moves that folder)."
    if not path.is_file():
        if not download:
            raise MetricUnavailableError(
                f"lpips needs the AlexNet weights {ALEXNET_FILE}, which are not at {shown}. {remedy}"
            )
        _download(path, remedy)
    _check_hash(path, _ALEXNET_SHA, f"Delete it. {remedy}")
    return path


def _shown(path: Path) -> str:
    """The path with the home folder as ``~``: reports carry this text to other machines."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _download(path: Path, remedy: str) -> None:
    """Fetch the AlexNet weights; ``path`` appears whole and checked, or not at all."""
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        partial = Path(name)
        torch.hub.download_url_to_file(ALEXNET_URL, name, hash_prefix=_ALEXNET_SHA)
        _check_hash(partial, _ALEXNET_SHA, remedy)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise MetricUnavailableError(
            f"lpips needs the AlexNet weights {ALEXNET_FILE}, which are not at {path}; downloading them failed: "
            f"{error}. {remedy}"
        ) from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _check_hash(path: Path, expected: str, remedy: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise MetricUnavailableError(f"{path} cannot be read: {error}. {remedy}") from None
    if found != expected:
        raise MetricUnavailableError(
            f"{path} is damaged or another file: its sha256 is {found}, expected {expected}. {remedy}"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MetricUnavailableError(f"{path} cannot be read as weights: {error}.") from None
    return weights
