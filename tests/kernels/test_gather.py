"""Keys and values by micro-block, against a loop over clusters."""

from __future__ import annotations

import pytest
import torch

from dit_accel.kernels.block_lists import MICRO, Partition, cut_keys
from dit_accel.kernels.gather import gather
from dit_accel.sparse.clusters import Clusters
from tests.kernels.conftest import DEVICE, DTYPES, random, random_labels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "num_clusters", "dim"), [(150, 12, 48), (64, 1, 64), (9, 20, 96)])
def test_a_cluster_is_where_its_blocks_are(dtype: torch.dtype, length: int, num_clusters: int, dim: int) -> None:
    key = random(2, 3, length, dim, dtype=dtype).transpose(1, 2)
    value = random(2, length + 1, 3, dim, dtype=dtype, seed=1)[:, 1:]
    clusters = Clusters.of(random_labels(2, 3, length, num_clusters), num_clusters)
    cut = cut_keys(clusters.sizes, length)
    partition = Partition(clusters.labels, clusters.order, clusters.sizes, clusters.starts)
    found = gather(key, value, partition, cut, 128)
    for item in range(2):
        for head in range(3):
            for cluster, size in enumerate(clusters.sizes[item, head].tolist()):
                first = (cut.first[item, head, [cluster, num_clusters + cluster]] * MICRO).tolist()
                whole = size - size % MICRO
                rows = [*range(first[0], first[0] + whole), *range(first[1], first[1] + size - whole)]
                is_member = clusters.labels[item, head] == cluster
                for tokens, by_block in zip((key, value), found.unbind(3), strict=True):
                    got = by_block[item, head, torch.tensor(rows, dtype=torch.long, device=DEVICE)]
                    assert torch.equal(got[:, :dim], tokens[item, is_member, head])
                    assert not got[:, dim:].any()
            assert found[item, head].any(-1).sum() == 2 * length
