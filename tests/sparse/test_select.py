"""`select_top_p` by examples: what comes first, in a head and among heads. Of any: `test_clustering_properties`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dit_accel.sparse.clusters import PseudoTokens
from dit_accel.sparse.select import BEST_WORTH, BINS_PER_NAT, LEAST_WORTH, select_top_p, stand_in_errors


def test_the_densest_clusters_come_first() -> None:
    # Masses 0.6, 0.3, 0.1; the first is spread over so many keys that it is the worst buy.
    logits = torch.tensor([[[[0.6, 0.3, 0.1]]]]).log()
    queries, keys = torch.tensor([[[7]]]), torch.tensor([[[100, 10, 5]]])
    assert select_top_p(logits, queries, keys, 0.25, 0).tolist() == [[[[False, True, False]]]]
    assert select_top_p(logits, queries, keys, 0.35, 0).tolist() == [[[[False, True, True]]]]
    assert select_top_p(logits, queries, keys, 0.5, 0).tolist() == [[[[True, True, True]]]]


def test_queries_that_look_at_much_get_what_others_do_not_need() -> None:
    # Most attention a token: 0.8 of the first, then 0.4, 0.3 and 0.3 of the second.
    logits = torch.tensor([[[[0.8, 0.15, 0.05], [0.3, 0.4, 0.3]]]]).log()
    queries, keys = torch.tensor([[[5, 5]]]), torch.tensor([[[10, 10, 10]]])
    found = select_top_p(logits, queries, keys, 0.85, 0)
    assert found.tolist() == [[[[True, False, False], [True, True, True]]]]


def test_larger_clusters_of_queries_count_more() -> None:
    logits = torch.tensor([[[[0.8, 0.2], [0.7, 0.3]]]]).log()
    keys = torch.tensor([[[10, 10]]])
    for queries, wanted in (([9, 1], [[True, False], [True, False]]), ([1, 9], [[True, False], [True, True]])):
        assert select_top_p(logits, torch.tensor([[queries]]), keys, 0.75, 0).tolist() == [[wanted]]


def test_at_least_so_many_tokens_are_kept() -> None:
    logits = torch.tensor([[[[0.9, 0.05, 0.05]]]]).log()
    queries, keys = torch.tensor([[[7]]]), torch.tensor([[[4, 10, 5]]])
    assert select_top_p(logits, queries, keys, 0.0, 4).tolist() == [[[[True, False, False]]]]
    assert select_top_p(logits, queries, keys, 0.0, 5).tolist() == [[[[True, False, True]]]]


def test_all_queries_keep_a_cluster() -> None:
    logits = torch.tensor([[[[0.99, 0.01], [0.5, 0.5]]]]).log()
    queries, keys = torch.tensor([[[90, 10]]]), torch.tensor([[[10, 11]]])
    assert select_top_p(logits, queries, keys, 0.5, 0).tolist() == [[[[True, False], [True, False]]]]


def test_what_a_stand_in_does_well_is_left_to_it() -> None:
    # Equal attention and size; the values of the first are all alike, and those of the last are spread most.
    logits = torch.tensor([[[[1.0, 1.0, 1.0]]]]).log()
    queries, keys = torch.tensor([[[7]]]), torch.tensor([[[10, 10, 10]]])
    pseudo = PseudoTokens(torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), keys.log())
    query = torch.ones(1, 1, 1, 2)
    errors = stand_in_errors(query, torch.zeros_like(query), pseudo, torch.tensor([[[0.0, 1.0, 2.0]]]), 0.5)
    # Variance of the logits: 2 channels of variance 2, times 0.5².
    expected = (math.expm1(1.0) * torch.tensor([0.0, 1.0, 2.0]) / 10).log()
    assert torch.allclose(errors.flatten(), expected)
    assert select_top_p(logits, queries, keys, 0.3, 0, errors).tolist() == [[[[False, False, True]]]]
    assert select_top_p(logits, queries, keys, 0.6, 0, errors).tolist() == [[[[False, True, True]]]]


def test_an_empty_cluster_is_never_kept() -> None:
    logits = torch.tensor([[[[0.5, -torch.inf]]]])
    queries, keys = torch.tensor([[[7]]]), torch.tensor([[[4, 0]]])
    for top_p in (0.9, 1.0):
        assert select_top_p(logits, queries, keys, top_p, 9).tolist() == [[[[True, False]]]]


def test_a_sharp_head_gets_what_a_diffuse_one_spares() -> None:
    """Of 2 heads of 5 queries; a token of the second has a third of the attention of any of the first, or less."""
    logits = torch.tensor([[[[0.5, 0.3, 0.2]], [[0.4, 0.35, 0.25]]]]).log()
    queries, keys = torch.tensor([[[5], [5]]]), torch.tensor([[[10, 10, 10], [60, 60, 60]]])
    found = select_top_p(logits, queries, keys, 0.5, 0)
    assert found.tolist() == [[[[True, True, True]], [[True, False, False]]]]  # the latter: at least one
    assert select_top_p(logits[:, 1:], queries[:, 1:], keys[:, 1:], 0.5, 0).sum() == 2


def test_batch_items_are_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 9, generator=generator) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1)
    sizes = torch.randint(1, 50, (2, 3, 14), generator=generator).split([5, 9], -1)
    both = select_top_p(logits, *sizes, 0.7, 0)
    for item in range(2):
        alone = select_top_p(logits[item : item + 1], *(x[item : item + 1] for x in sizes), 0.7, 0)
        assert torch.equal(both[item], alone[0])
    assert both[0].sum() != both[1].sum()


@pytest.mark.parametrize("parts", [(6,), (3, 3), (1, 5), (1, 1, 1, 1, 1, 1)])
def test_however_heads_are_divided_the_same_is_kept(parts: tuple[int, ...]) -> None:
    """The ranks' histograms are whole numbers, added up in any order."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, 20, 40, generator=generator) * torch.arange(1.0, 7.0).view(1, 6, 1, 1)
    queries, keys = torch.randint(0, 90, (1, 6, 60), generator=generator).split([20, 40], -1)
    errors = torch.randn(1, 6, 20, 40, generator=generator)
    seen: list[Tensor] = []

    def note(values: Tensor) -> Tensor:
        assert values.dtype == torch.int64
        seen.append(values)
        return values

    def kept_of(rank: int, rank_sum: object) -> Tensor:
        split = (x.split(parts, 1)[rank] for x in (logits, queries, keys))
        return select_top_p(*split, 0.6, 0, errors.split(parts, 1)[rank], rank_sum)

    for rank in range(len(parts)):
        kept_of(rank, note)
    total = torch.stack(seen[::-1]).sum(0)
    found = torch.cat([kept_of(rank, lambda _: total) for rank in range(len(parts))], 1)
    assert torch.equal(found, select_top_p(logits, queries, keys, 0.6, 0, errors))
    assert 0.01 < found.float().mean() < 0.9


def test_what_a_stand_in_does_exactly_is_not_kept_and_not_asked_for() -> None:
    """Half of the attention is on single tokens, as in a model with as many clusters as tokens."""
    logits = torch.tensor([[[[0.25, 0.25, 0.3, 0.2]]]]).log()
    queries, keys = torch.tensor([[[7]]]), torch.tensor([[[1, 1, 9, 9]]])
    errors = torch.tensor([[[[-torch.inf, -torch.inf, 0.0, 0.0]]]])
    assert select_top_p(logits, queries, keys, 0.5, 0, errors).tolist() == [[[[False, False, True, False]]]]
    assert select_top_p(logits, queries, keys, 0.7, 0, errors).tolist() == [[[[False, False, True, True]]]]
    assert select_top_p(logits, queries, keys, 0.5, 19, errors).tolist() == [[[[True, False, True, True]]]]


@pytest.mark.parametrize("worth", [BEST_WORTH + 50.0, LEAST_WORTH - 50.0])
def test_what_is_beyond_the_bins_is_kept_together(worth: float) -> None:
    """Stand-ins of values of any scale; the attention asked for is there in any case."""
    logits, queries, keys = torch.zeros(1, 1, 1, 4), torch.tensor([[[7]]]), torch.tensor([[[9, 9, 9, 9]]])
    errors = torch.tensor([[[[worth, worth + 1, worth + 2, worth + 3]]]])
    assert select_top_p(logits, queries, keys, 0.5, 0, errors).all()
    assert select_top_p(logits, queries, keys, 0.0, 0, errors).sum() == 1
    errors[..., 0] = -torch.inf  # worth nothing is not merely worth little
    assert select_top_p(logits, queries, keys, 0.5, 0, errors).tolist() == [[[[False, True, True, True]]]]


def test_worth_that_is_nearly_the_same_is_kept_together_and_more_is_not() -> None:
    logits, queries, keys = torch.zeros(1, 1, 1, 3), torch.tensor([[[7]]]), torch.tensor([[[1, 1, 1]]])
    middle = 2 * math.log(3) + 0.5 / BINS_PER_NAT  # of a bin
    for apart, kept in ((0.4, 2), (1.0, 1)):
        errors = torch.tensor([[[[middle, middle - apart / BINS_PER_NAT, middle - 5]]]])
        assert select_top_p(logits, queries, keys, 0.3, 0, errors).sum() == kept


def test_the_attention_of_the_largest_models_can_be_counted() -> None:
    """All of 64 heads of 2^22 tokens in one bin: the sum is right, and no share of it is lost."""
    logits, keys = torch.zeros(1, 64, 1, 2), torch.full((1, 64, 2), 2**21)
    queries = torch.full((1, 64, 1), 2**22)
    seen: list[Tensor] = []

    def note(values: Tensor) -> Tensor:
        seen.append(values)
        return values

    assert select_top_p(logits, queries, keys, 0.999, 0, rank_sum=note).all()
    assert int(seen[0].sum()) == 64 * 2**22 * 2**32 and (seen[0] >= 0).all()
