"""One registry for the engines that run sparse attention. ``"auto"`` picks what loads; a named one loads or raises."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import BackendUnavailableError, ConfigError, did_you_mean
from .clusters import Clusters, Selection, TorchMeans
from .kmeans import Grouping, nearest_centroids


class MinTokens(NamedTuple):
    """Sequences shorter than this are faster dense: in float32, and in half precision; see ``benchmarks/``."""

    float32: int
    half: int


class Backend(Grouping, Protocol):
    """What an engine does. Tensors are [B, S, H, D], of any strides."""

    min_tokens: MinTokens

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """Attention under ``selection`` in the dtype of ``query``, contiguous; a query that keeps nothing gives 0."""


class TorchOps(TorchMeans):
    """Clustering in plain torch, for the backends that have no kernels of their own for it."""

    def assign(self, tokens: Tensor, centroids: Tensor) -> Tensor:
        """See `Grouping.assign`."""
        return nearest_centroids(tokens, centroids)

    def group(self, labels: Tensor, num_clusters: int) -> Clusters:
        """See `Grouping.group`."""
        return Clusters.of(labels, num_clusters)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a backend is: ``load(device)`` of the module returns it, or raises `BackendUnavailableError`."""

    module: str
    devices: tuple[str, ...]


_ENTRIES = {
    "triton": _Entry(".triton_backend", ("cuda", "cpu")),  # the latter in Triton's interpreter, see there
    "torch": _Entry(".torch_backend", ("cpu", "cuda")),
    "flex": _Entry(".flex_backend", ("cpu", "cuda")),
    "flashinfer": _Entry(".flashinfer_backend", ("cuda",)),
    "reference": _Entry(".reference_backend", ("cpu", "cuda")),
}
_AUTO = {"cuda": ("triton", "torch"), "cpu": ("torch",)}  # the fastest first


@functools.cache  # asked for in every layer at every step
def load_backend(name: str, device: torch.device) -> Backend:
    """The backend ``name`` for tensors on ``device``.

    Raises:
        ConfigError: there is no backend of this name.
        BackendUnavailableError: it cannot run here; the message says why.
    """
    if name == "auto":
        candidates = _AUTO.get(device.type, ("torch",))
        name = next((fast for fast in candidates if _why_not(fast, device) is None), candidates[-1])
    if name not in _ENTRIES:
        raise ConfigError(
            f"There is no backend {name!r}. Backends: auto, {', '.join(_ENTRIES)}.{did_you_mean(name, _ENTRIES)}"
        )
    entry = _ENTRIES[name]
    if device.type not in entry.devices:
        raise BackendUnavailableError(
            f"The backend {name!r} runs on {' and '.join(entry.devices)}, these tensors are on {device.type}. "
            'Use backend="auto".'
        )
    backend: Backend = importlib.import_module(entry.module, __package__).load(device)
    return backend


def backend_report(device: torch.device) -> dict[str, str]:
    """Every backend -> ``"ok"``, or why it cannot run on ``device``."""
    return {name: _why_not(name, device) or "ok" for name in _ENTRIES}


def _why_not(name: str, device: torch.device) -> str | None:
    try:
        load_backend(name, device)
    except BackendUnavailableError as error:
        return str(error)
    return None
