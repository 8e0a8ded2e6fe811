"""Where kernels run: on a GPU, or in Triton's interpreter. Without either, tests/test_kernels.py runs this folder in a
process with the interpreter: Triton decides as it is imported."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from dit_accel.sparse.clusters import Clusters

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu")
# The interpreter multiplies the bit patterns of bfloat16.
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE.type == "cuda" else [])

collect_ignore_glob = [] if IS_INTERPRETED or DEVICE.type == "cuda" else ["test_*.py"]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def random_labels(batch: int, heads: int, length: int, num_clusters: int, seed: int = 0) -> Tensor:
    """[B, H, S] int32, in which every third cluster but the first is empty."""
    labels = torch.randint(0, num_clusters, (batch, heads, length), generator=torch.Generator().manual_seed(seed))
    return torch.where(labels % 3 == 2, labels // 3, labels).to(DEVICE, torch.int32)


def clusters_of_sizes(*sizes: int, heads: int = 1, seed: int = 0) -> Clusters:
    """One batch item whose heads have clusters of these sizes, each in an order of its own."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    generator = torch.Generator().manual_seed(seed)
    shuffled = [labels[torch.randperm(len(labels), generator=generator)] for _ in range(heads)]
    return Clusters.of(torch.stack(shuffled)[None].to(DEVICE), len(sizes))
