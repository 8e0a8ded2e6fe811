"""Sorting against torch's stable sort."""

from __future__ import annotations

import pytest
import torch

from dit_accel.kernels.counting_sort import counting_sort
from dit_accel.sparse.clusters import Clusters
from tests.kernels.conftest import random_labels


@pytest.mark.parametrize(
    ("length", "num_clusters"), [(1, 1), (7, 40), (512, 5), (1300, 70)], ids=lambda number: str(number)
)
def test_it_is_stable_and_counts(length: int, num_clusters: int) -> None:
    labels = random_labels(2, 3, length, num_clusters)
    order, sizes = counting_sort(labels, num_clusters)
    wanted = Clusters.of(labels, num_clusters)
    assert order.dtype is sizes.dtype is torch.int32
    assert torch.equal(order, wanted.order)
    assert torch.equal(sizes, wanted.sizes)


def test_one_cluster_may_hold_everything() -> None:
    order, sizes = counting_sort(torch.full_like(random_labels(1, 2, 700, 1), 3), 5)
    assert torch.equal(order, torch.arange(700, device=order.device).int().expand(1, 2, -1))
    assert sizes.tolist() == [[[0, 0, 0, 700, 0]] * 2]


def test_labels_may_be_strided() -> None:
    labels = random_labels(1, 2, 200, 9).repeat_interleave(2, dim=-1)[..., ::2]
    assert not labels.is_contiguous()
    assert torch.equal(counting_sort(labels, 9)[0], Clusters.of(labels, 9).order)
