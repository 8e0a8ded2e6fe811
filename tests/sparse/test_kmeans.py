"""K-means: it ends nearer than it began, and is the same every time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dit_accel.sparse import kmeans
from dit_accel.sparse.backends import TorchOps
from tests.sparse.conftest import tokens

OPS = TorchOps()


def inertia(points: Tensor, centroids: Tensor) -> float:
    distances = torch.cdist(points.transpose(1, 2).double(), centroids.double())
    return float(distances.min(-1).values.square().sum())


def test_labels_are_the_nearest_centroids() -> None:
    points, centroids, _ = tokens(2, 120, 3, 16)
    found = kmeans.nearest_centroids(points, centroids[:, :9].transpose(1, 2))
    wanted = torch.cdist(points.transpose(1, 2), centroids[:, :9].transpose(1, 2)).argmin(-1)
    assert found.dtype is torch.int32
    assert torch.equal(found.long(), wanted)


def test_a_long_sequence_is_labelled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centroids, _ = tokens(1, 200, 2, 16)
    whole = kmeans.nearest_centroids(points, centroids[:, :7].transpose(1, 2))
    monkeypatch.setattr(kmeans, "_CHUNK_ELEMENTS", 2 * 7 * 33)
    assert torch.equal(kmeans.nearest_centroids(points, centroids[:, :7].transpose(1, 2)), whole)


def test_bfloat16_finds_the_clusters_that_float32_does() -> None:
    points, centres, _ = tokens(1, 400, 1, 32)
    points = points * 0.2 + centres[:, torch.arange(400) % 8]
    centroids = centres[:, :8].transpose(1, 2)
    exact = kmeans.nearest_centroids(points, centroids)
    assert (kmeans.nearest_centroids(points.bfloat16(), centroids) == exact).float().mean() >= 0.95


def test_no_iteration_makes_it_worse() -> None:
    points = tokens(1, 300, 2, 8)[0]
    centroids = kmeans.stratified_tokens(points, 10)
    found = [inertia(points, kmeans.cluster(points, centroids, n, OPS)[1]) for n in range(8)]
    assert all(after <= before + 1e-6 for before, after in pairwise(found))
    assert found[-1] < 0.95 * found[0]


def test_no_iterations_leave_the_centroids_alone() -> None:
    points = tokens(1, 100, 1, 8)[0]
    centroids = kmeans.stratified_tokens(points, 5)
    assert kmeans.cluster(points, centroids, 0, OPS)[1] is centroids


def test_an_empty_cluster_keeps_its_centroid() -> None:
    points = tokens(1, 100, 1, 8)[0]
    centroids = kmeans.stratified_tokens(points, 5)
    centroids[0, 0, 2] = 1e3
    clusters, after = kmeans.cluster(points, centroids, 3, OPS)
    assert clusters.sizes[0, 0, 2] == 0
    assert torch.equal(after[0, 0, 2], torch.full((8,), 1e3))


def test_it_draws_nothing_and_repeats_itself() -> None:
    points = tokens(1, 300, 2, 16)[0]
    before = torch.get_rng_state()
    first, second = (kmeans.cluster(points, kmeans.stratified_tokens(points, 12), 4, OPS)[1] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


@settings(deadline=None)
@given(length=st.integers(1, 300), data=st.data())
def test_first_centroids_are_different_tokens(length: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, length))
    points = torch.arange(length).float()[None, :, None, None]
    picked = kmeans.stratified_tokens(points, count).flatten()
    assert len(set(picked.tolist())) == count
    assert (picked.diff() > 0).all()
