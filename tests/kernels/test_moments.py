"""Means and variances of clusters, against those of torch."""

from __future__ import annotations

import pytest
import torch

from dit_accel.sparse.clusters import Clusters, cluster_means
from dit_accel.sparse.triton_backend import TritonBackend
from tests.kernels.conftest import DEVICE, DTYPES, random, random_labels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "num_clusters", "dim"), [(150, 12, 48), (333, 2, 64), (9, 20, 128)])
def test_they_are_those_of_torch(dtype: torch.dtype, length: int, num_clusters: int, dim: int) -> None:
    tokens = random(2, 3, length, dim, dtype=dtype).transpose(1, 2)[..., 1:]
    clusters = Clusters.of(random_labels(2, 3, length, num_clusters), num_clusters)
    backend, wanted = TritonBackend(), cluster_means(tokens, clusters)
    for found, expected in zip(backend.moments(tokens, clusters), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        assert not found[(clusters.sizes == 0)].any()
    assert torch.equal(backend.mean(tokens, clusters), backend.moments(tokens, clusters)[0])


def test_a_number_that_is_none_stays_in_its_cluster() -> None:
    tokens = random(1, 40, 1, 32)
    tokens[0, 7] = torch.nan
    clusters = Clusters.of(torch.arange(40, device=DEVICE)[None, None] % 4, 4)
    for found in TritonBackend().moments(tokens, clusters):
        assert found.isnan().all(-1).flatten().tolist() == [False, False, False, True]
