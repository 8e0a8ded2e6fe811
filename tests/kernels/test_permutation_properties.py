"""The permutation of tokens by cluster, of any labels: it is one, it is stable, and nothing is lost on the way."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dit_accel.kernels.block_lists import MICRO, Partition, cut_keys
from dit_accel.kernels.counting_sort import counting_sort
from dit_accel.kernels.gather import gather
from tests.conftest import examples
from tests.kernels.conftest import DEVICE, random


@st.composite
def labels(draw: st.DrawFn, longest: int) -> tuple[Tensor, int]:
    """[1, 2, S] int32 and the number of clusters: all in one, in few of many, or anywhere."""
    length, count = draw(st.integers(1, longest)), draw(st.integers(1, 80))
    used = draw(st.integers(1, count))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    names = torch.randperm(count, generator=generator)[:used]
    return names[torch.randint(0, used, (1, 2, length), generator=generator)].to(DEVICE, torch.int32), count


@given(labels(longest=1100))
@examples(12)
def test_sorting_is_a_stable_permutation_that_can_be_undone(case: tuple[Tensor, int]) -> None:
    given_labels, count = case
    order, sizes = counting_sort(given_labels, count)
    order = order.long()
    everything = torch.arange(order.shape[-1], device=DEVICE).expand_as(order)
    in_order = given_labels.gather(-1, order)
    assert torch.equal(order.sort(-1).values, everything)
    assert ((in_order.diff() > 0) | ((in_order.diff() == 0) & (order.diff() > 0))).all()
    assert torch.equal(torch.zeros_like(in_order).scatter(-1, order, in_order), given_labels)
    assert sizes.tolist() == [[row.bincount(minlength=count).tolist() for row in given_labels[0]]]


@given(labels(longest=90), st.sampled_from([3, 32, 64]))
@examples(12)
def test_every_key_is_in_its_block_and_comes_back(case: tuple[Tensor, int], dim: int) -> None:
    given_labels, count = case
    length = given_labels.shape[-1]
    order, sizes = counting_sort(given_labels, count)
    starts = (sizes.cumsum(-1) - sizes).to(torch.int32)
    key, value = random(1, length, 2, dim), random(1, length, 2, dim, seed=1)
    cut = cut_keys(sizes, length)
    blocks = gather(key, value, Partition(given_labels, order, sizes, starts), cut, 64)
    for head in range(2):
        rows = torch.empty(length, dtype=torch.long, device=DEVICE)
        seen = [0] * count
        for token, cluster in enumerate(given_labels[0, head].tolist()):
            whole = int(sizes[0, head, cluster]) // MICRO * MICRO
            rank, kind = (seen[cluster], 0) if seen[cluster] < whole else (seen[cluster] - whole, count)
            rows[token] = int(cut.first[0, head, cluster + kind]) * MICRO + rank
            seen[cluster] += 1
        assert len(rows.unique()) == length, "two keys are in one place"
        for tokens, by_block in zip((key, value), blocks.unbind(3), strict=True):
            assert torch.equal(by_block[0, head, rows, :dim], tokens[0, :, head])
