"""Ring attention, data-parallel replicas and sharded weights."""

from __future__ import annotations

import pytest

from .processes import Results
from .test_ulysses import differences

pytestmark = pytest.mark.slow


def assert_decides_alike(rank: Results, job: str, alone: Results) -> None:
    """Ring attention adds up in another order, so outputs are near and decisions the same."""
    for name in ("schedule", "dbcache"):
        found, expected = rank[job][name], alone["ring"][name]
        assert found["computed_steps"] == expected["computed_steps"]
        assert (found["latents"] - expected["latents"]).abs().max() < 1e-4


@pytest.mark.parametrize("order", ["before", "after"])
def test_caches_work_under_ring_attention(alone: Results, two: list[Results], order: str) -> None:
    for rank in two:
        assert_decides_alike(rank, f"ring {order}", alone)


def test_caches_work_under_rings_of_ulysses(alone: Results, four: list[Results]) -> None:
    for rank in four:
        assert_decides_alike(rank, "ring", alone)


@pytest.mark.parametrize("order", ["before", "after"])
def test_svg2_refuses_ring_attention(two: list[Results], order: str) -> None:
    """If parallelism comes first, when enabling; else at the first call."""
    for rank in two:
        error = rank[f"ring {order}"]["svg2"]["error"]
        assert error.startswith("UnsupportedPipelineError: SVG2 needs all tokens of a head in one process")
        assert "ring_degree=2" in error and "ulysses_degree=2" in error


def test_replicas_in_one_process_group_do_as_they_would_alone(alone: Results, two: list[Results]) -> None:
    for replica, rank in enumerate(two):
        expected = alone["replicas"][str(replica)]
        assert differences(rank["replicas"], {str(replica): expected}) == []
    first, second = (alone["replicas"][name]["computed_steps"] for name in "01")
    assert first != second, "they would not notice each other"


def test_replicas_that_are_divided_do_as_they_would_alone(alone: Results, four: list[Results]) -> None:
    for number, rank in enumerate(four):
        replica = str(number // 2)
        assert differences(rank["replicas"], {replica: alone["replicas"][replica]}) == []


@pytest.mark.parametrize("order", ["before", "after"])
def test_sharded_blocks_decide_each_for_its_own_prompt(alone: Results, two: list[Results], order: str) -> None:
    for number, rank in enumerate(two):
        mine = {name: found for name, found in alone["sharded"].items() if name.endswith(str(number))}
        assert len(mine) == len(alone["sharded"]) // 2
        assert differences(rank[f"sharded {order}"], mine) == []


def test_blocks_inside_of_wrappers_are_refused_with_the_reason(alone: Results, two: list[Results]) -> None:
    for rank in two:
        assert rank["wrapped"].keys() == alone["cases"].keys()
        for found in rank["wrapped"].values():
            assert found["error"].startswith(
                "UnsupportedPipelineError: FullyShardedDataParallel.forward has no argument"
            )
            assert "fully_shard" in found["error"]
