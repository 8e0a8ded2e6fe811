"""Cutting clusters in blocks, and the lists of those that are kept, against plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

from dit_accel.kernels.block_lists import MICRO, block_lists, cut_keys, cut_queries, filled
from tests.kernels.conftest import DEVICE

SIZES = [[3, 0, 17, 8, 1], [16, 5, 0, 0, 8]]  # of two heads of 29 keys


def sizes_of(rows: list[list[int]]) -> Tensor:
    return torch.tensor([rows], dtype=torch.int32, device=DEVICE)


def blocks_of(sizes: list[int]) -> list[tuple[int, int]]:
    """Cluster and number of keys of every micro-block, whole ones first."""
    whole = [(cluster, MICRO) for cluster, size in enumerate(sizes) for _ in range(size // MICRO)]
    return whole + [(cluster, size % MICRO) for cluster, size in enumerate(sizes) if size % MICRO]


def test_keys_are_cut_whole_blocks_first() -> None:
    keys = cut_keys(sizes_of(SIZES), 29)
    counts = filled(sizes_of(SIZES), keys)
    for head, sizes in enumerate(SIZES):
        wanted = blocks_of(sizes)
        pairs = zip(keys.owner[0, head].tolist(), counts[0, head].tolist(), strict=True)
        found = [(kind % 5, count) for kind, count in pairs]
        assert found[: len(wanted)] == wanted
        assert keys.owner[0, head, len(wanted) :].eq(10).all()
        assert not counts[0, head, len(wanted) :].any()


def test_the_upper_bound_is_reached_and_holds() -> None:
    for sizes, num_blocks in (([1, 1, 1, 1], 4), ([9, 1, 1], 4), ([32], 4)):
        keys = cut_keys(sizes_of([sizes]), sum(sizes))
        assert len(blocks_of(sizes)) == num_blocks == int((keys.owner < 2 * len(sizes)).sum())


def test_queries_are_cut_in_blocks_of_one_cluster() -> None:
    queries = cut_queries(sizes_of(SIZES), 29, 4)
    for head, sizes in enumerate(SIZES):
        wanted = [cluster for cluster, size in enumerate(sizes) for _ in range(-(-size // 4))]
        found = queries.owner[0, head].tolist()
        assert found[: len(wanted)] == wanted
        assert set(found[len(wanted) :]) <= {5}
        assert queries.first[0, head].tolist() == [sum(-(-size // 4) for size in sizes[:c]) for c in range(5)]


def check_lists(sizes: list[list[int]], kept: Tensor, dtype: torch.dtype) -> None:
    lists, lengths = block_lists(cut_keys(sizes_of(sizes), sum(sizes[0])), kept)
    assert lists.dtype is dtype
    for head, own in enumerate(sizes):
        blocks = blocks_of(own)
        for query in range(kept.shape[2]):
            wanted = [number for number, (cluster, _) in enumerate(blocks) if kept[0, head, query, cluster]]
            num_whole = sum(blocks[number][1] == MICRO for number in wanted)
            assert lengths[0, head, query].tolist() == [num_whole, len(wanted)]
            assert lists[0, head, query, : len(wanted)].tolist() == wanted


def test_lists_hold_what_is_kept_in_ascending_order() -> None:
    kept = torch.rand(1, 2, 6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    kept[0, 0, 0], kept[0, 0, 1] = False, True
    check_lists(SIZES, kept.to(DEVICE), torch.int16)


def test_lists_longer_than_a_program_looks_at() -> None:
    kept = torch.tensor([[[[True, False, True], [False, True, True]]]], device=DEVICE)
    check_lists([[9000, 3001, 5]], kept, torch.int16)


def test_numbers_beyond_int16_are_int32() -> None:
    kept = torch.tensor([[[[False, True]]]], device=DEVICE)
    check_lists([[MICRO << 15, 20]], kept, torch.int32)
