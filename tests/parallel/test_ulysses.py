"""Ulysses: ranks that hold parts of the sequence do as a single process does, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .processes import Results

pytestmark = pytest.mark.slow
PER_RANK = ("density",)  # each rank has heads of its own


def differences(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> list[str]:
    """What is not the same in two results of a job."""
    assert found.keys() == expected.keys()
    return [
        f"{case}: {key}"
        for case, values in expected.items()
        for key, value in values.items()
        if key not in PER_RANK and not is_same(found[case][key], value)
    ]


def is_same(found: Any, expected: Any) -> bool:
    return torch.equal(found, expected) if isinstance(expected, torch.Tensor) else bool(found == expected)


def kinds_of_steps(result: dict[str, Any]) -> set[str]:
    return {kind for kind in ("computed", "reused", "partial", "sparse") if result[f"{kind}_steps"]}


def test_division_alone_changes_no_bit(alone: Results, two: list[Results]) -> None:
    """Without it there would be nothing to ask of acceleration."""
    for rank in two:
        assert differences(rank["plain"], alone["plain"]) == []


@pytest.mark.parametrize("order", ["before", "after"])
def test_every_method_in_both_orders(alone: Results, two: list[Results], order: str) -> None:
    for rank in two:
        assert differences(rank[f"cases {order}"], alone["cases"]) == []


def test_the_methods_do_something(alone: Results) -> None:
    kinds = {case: kinds_of_steps(result) for case, result in alone["cases"].items()}
    for case, found in kinds.items():
        assert ("reused" in found) == ("schedule" in case or "dbcache" in case or "partial" in case), case
        assert ("sparse" in found) == ("svg2" in case or "sparse" in case), case
    latents = [result["latents"] for result in alone["cases"].values()]
    assert len({tuple(one.flatten().tolist()) for one in latents}) >= 8, "these cases are hardly different"


def test_four_processes(alone: Results, four: list[Results]) -> None:
    for rank in four:
        assert differences(rank["cases"], {name: alone["cases"][name] for name in rank["cases"]}) == []


def test_every_preset_of_the_embedded_model(alone: Results, two: list[Results]) -> None:
    """With its first five blocks, which is enough to tell."""
    assert {"lemica-fast", "planned-fast", "dbcache-fast", "svg2", "lemica-fast+svg2"} <= alone["presets"].keys()
    for rank in two:
        assert differences(rank["presets"], alone["presets"]) == []


def test_heads_and_tokens_that_ranks_do_not_divide(alone: Results, two: list[Results]) -> None:
    for rank in two:
        assert differences(rank["uneven"], alone["uneven"]) == []


def test_each_rank_counts_the_pairs_of_its_heads(alone: Results, two: list[Results], four: list[Results]) -> None:
    expected = alone["cases"]["svg2"]["density"]
    assert 0 < expected < 0.9
    for found in (
        [rank["cases before"]["svg2"]["density"] for rank in two],
        [r["cases"]["svg2"]["density"] for r in four],
    ):
        assert len(set(found)) > 1
        assert sum(found) / len(found) == pytest.approx(expected, rel=1e-12)


def test_clusters_are_refreshed_when_the_error_of_all_heads_has_drifted(alone: Results) -> None:
    """Else the case "when it drifts" would hold whatever is summed up over ranks."""
    cases = alone["cases"]
    assert not torch.equal(cases["svg2, when it drifts"]["latents"], cases["svg2"]["latents"])


def test_fifty_runs_decide_alike_at_any_threshold(alone: Results, two: list[Results]) -> None:
    """Half of the thresholds are distances that other runs met, where the last bit decides."""
    expected = alone["runs"]
    assert len(expected) == 50
    for rank in two:
        assert differences(rank["runs"], expected) == []
    assert len({str(result["computed_steps"]) for result in expected.values()}) > 5
    ties = [t for t, result in expected.items() if float(t) in distances_of(result)]
    assert len(ties) >= 5


def distances_of(result: dict[str, Any]) -> set[float]:
    return {distance for _, distance in result["residual_diffs"]["transformer"]}
