"""The backend ``"triton"``: everything by the kernels of ``dit_accel.kernels``, without a word to the host."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BackendUnavailableError, ConfigError
from .backends import Backend, MinTokens
from .clusters import Clusters, Selection

if TYPE_CHECKING:
    from ..kernels.block_lists import Partition

_MIN_CAPABILITY = 8  # Ampere: the first with bfloat16 and asynchronous copies
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class TritonBackend:
    """See `Backend`."""

    # In half precision between 16,384 tokens, where it loses on an H200 with 12 heads at 10 % and at 30 % density, and
    # 32,760, where it wins at both: see `benchmarks/gpu_suite.py`. Float32 was tried at a few sizes, and paid at 10 %.
    min_tokens = MinTokens(32_768, 24_576)

    def assign(self, tokens: Tensor, centroids: Tensor) -> Tensor:
        """See `Grouping.assign`."""
        _check_dtype(tokens)
        from ..kernels.assign import assign

        with torch.cuda.device_of(tokens):
            return assign(tokens, centroids)

    def group(self, labels: Tensor, num_clusters: int) -> Clusters:
        """See `Grouping.group`."""
        from ..kernels.counting_sort import counting_sort

        labels = labels.to(torch.int32)
        with torch.cuda.device_of(labels):
            return Clusters(labels, *counting_sort(labels, num_clusters))

    def mean(self, tokens: Tensor, clusters: Clusters) -> Tensor:
        """See `Means.mean`."""
        return self._moments(tokens, clusters, with_variance=False)[0]

    def moments(self, tokens: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
        """See `Means.moments`."""
        mean, variance = self._moments(tokens, clusters, with_variance=True)
        assert variance is not None
        return mean, variance

    @staticmethod
    def _moments(tokens: Tensor, clusters: Clusters, *, with_variance: bool) -> tuple[Tensor, Tensor | None]:
        from ..kernels.moments import moments

        with torch.cuda.device_of(tokens):
            return moments(tokens, _partition(clusters), with_variance=with_variance)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """See `Backend.attend`.

        Raises:
            ConfigError: ``scale`` is not positive, or the dtype is not one of those that the kernels take.
        """
        _check_dtype(query)
        if scale <= 0:
            raise ConfigError(f'The backend "triton" needs a positive scale, got {scale}. Use backend="torch".')
        from ..kernels.attention import StandIns, attention

        queries, keys = _partition(selection.query), _partition(selection.key)
        pseudo = selection.pseudo
        stand_ins = None
        if pseudo is not None:
            stand_ins = StandIns(pseudo.key, pseudo.half_variance, pseudo.value, pseudo.log_size)
        with torch.cuda.device_of(query):
            return attention(query, key, value, queries, keys, selection.kept, stand_ins, scale)


def _partition(clusters: Clusters) -> Partition:
    from ..kernels.block_lists import Partition

    return Partition(clusters.labels, clusters.order, clusters.sizes, clusters.starts)


def _check_dtype(tokens: Tensor) -> None:
    # On a CPU Triton interprets; its products of bfloat16 are those of the bit patterns.
    allowed = (torch.float32, torch.float16) if tokens.device.type == "cpu" else _DTYPES
    if tokens.dtype not in allowed:
        raise ConfigError(
            f'The backend "triton" takes {" and ".join(map(str, allowed))} on {tokens.device.type}, got '
            f'{tokens.dtype}. Use backend="torch".'
        )


def load(device: torch.device) -> Backend:
    """The backend.

    Raises:
        BackendUnavailableError: Triton is not installed, or cannot run on ``device``.
    """
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cpu" and not is_interpreted:
        raise BackendUnavailableError(
            'The backend "triton" runs on a GPU, these tensors are on cpu. Use backend="auto". (For tests, Triton\'s '
            "interpreter runs on a CPU: set TRITON_INTERPRET=1 before Python starts.)"
        )
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise BackendUnavailableError(
            f'The backend "triton" needs Triton, which does not load here ({error}). Install it with: '
            "pip install 'dit-accel[triton]'"
        ) from error
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major < _MIN_CAPABILITY:
            raise BackendUnavailableError(
                f'The backend "triton" needs a GPU of compute capability {_MIN_CAPABILITY}.0 or newer, '
                f'{torch.cuda.get_device_name(device)} has {major}.{minor}. Use backend="auto".'
            )
    return TritonBackend()
