"""Partitions, and the pseudo-tokens that stand for a cluster, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import torch

from dit_accel.sparse.clusters import Clusters, Selection, cluster_means, summarize
from tests.sparse.conftest import ragged, relative_error, tokens


def test_tokens_are_sorted_by_cluster_and_stay_in_order_within_it() -> None:
    clusters = Clusters.of(torch.tensor([[[2, 0, 2, 1, 0, 2]]]), 5)
    assert clusters.order.tolist() == [[[1, 4, 3, 0, 2, 5]]]
    assert clusters.sizes.tolist() == [[[2, 1, 3, 0, 0]]]
    assert clusters.starts.tolist() == [[[0, 2, 3, 6, 6]]]


def test_means_and_variances_are_those_of_a_loop_and_zero_where_empty() -> None:
    key, _, _ = tokens(2, 150, 3, 16)
    clusters = ragged(2, 150, 3, 8)
    assert (clusters.sizes == 0).any()
    mean, variance = cluster_means(key, clusters)
    for item in range(2):
        for head in range(3):
            for c in range(8):
                members = key[item, :, head][clusters.labels[item, head] == c]
                wanted = members.mean(0) if len(members) else torch.zeros(16)
                spread = members.var(0, correction=0) if len(members) else torch.zeros(16)
                torch.testing.assert_close(mean[item, head, c], wanted)
                torch.testing.assert_close(variance[item, head, c], spread, atol=1e-5, rtol=1e-4)


def test_a_pseudo_token_has_the_mass_of_its_gaussian_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(32, generator=generator) + 0.2
    key = (torch.randn(1, 20_000, 1, 32, generator=generator) * spread + 0.3).contiguous()
    query = torch.randn(1, 1, 4, 32, generator=generator)
    clusters = Clusters.of(torch.zeros(1, 1, 20_000, dtype=torch.int64), 1)
    mass = (query @ key.permute(0, 2, 3, 1) * 0.18).logsumexp(-1)
    pseudo = summarize(key, key, clusters)
    mean_alone = replace(pseudo, half_variance=torch.zeros_like(pseudo.half_variance))
    assert (pseudo.logits(query, 0.18)[..., 0] - mass).abs().max() < 0.05
    assert (mean_alone.logits(query, 0.18)[..., 0] < mass - 0.1).all()  # Jensen: the mean alone knows of less


def test_pairs_count_what_is_kept() -> None:
    query, key = (Clusters.of(torch.tensor([[labels]]), 2) for labels in ([0, 0, 1], [0, 1, 1]))
    kept = torch.tensor([[[[True, False], [True, True]]]])
    assert Selection(query, key, kept).pairs().tolist() == [[2 * 1 + 1 * 3]]


def test_sums_do_not_change_from_run_to_run() -> None:
    key, value, _ = tokens(1, 999, 2, 32)
    clusters = ragged(1, 999, 2, 9)
    first, second = summarize(key, value, clusters), summarize(key, value, clusters)
    assert torch.equal(first.value, second.value)
    assert relative_error(first.key, cluster_means(key, clusters)[0]) == 0
