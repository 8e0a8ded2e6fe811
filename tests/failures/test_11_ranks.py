"""11. Processes that disagree.

Under context parallelism each process has a part of the sequence, and the distance that decides differs from part to
part. FirstBlockCache of diffusers 0.42.1 compares its own: with a threshold in between one process reuses and another
waits in an all-to-all until gloo gives up. cache-dit 1.5.3 averages over all processes there are, which couples
replicas that have nothing to do with each other, by an operation that gloo does not have.
"""

from __future__ import annotations

import pytest

from tests.parallel.processes import run_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found that share the sequence, and what it found by itself."""
    found = run_ranks(tmp_path_factory.mktemp("ranks"), 2, {"found": ["together_and_alone"]})
    return [rank["found"] for rank in found]


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_threshold_between_their_distances_is_decided_as_a_single_process_does(ranks, order):
    (step, first), (_, second) = (rank["straddling"]["local"] for rank in ranks)
    threshold = ranks[0]["straddling"]["threshold"]
    assert min(first, second) < threshold < max(first, second)
    for rank in ranks:
        assert rank["straddling"]["threshold"] == threshold
        whole, found = rank["straddling, whole"], rank[f"straddling, {order}"]
        decided = [pair[0] for pair in whole["residual_diffs"]["transformer"]]
        assert step in decided
        for key in ("computed_steps", "reused_steps", "residual_diffs"):
            assert found[key] == whole[key]
        assert found["latents"].equal(whole["latents"])


@pytest.mark.parametrize("order", ["before", "after"])
def test_parallelism_before_or_after_changes_nothing(ranks, order):
    for rank in ranks:
        for name in ("dbcache", "lemica", "dbcache and svg2"):
            whole, found = rank[f"{name}, whole"], rank[f"{name}, {order}"]
            assert found["latents"].equal(whole["latents"])
            assert found["computed_steps"] == whole["computed_steps"] and found["reused_steps"]
