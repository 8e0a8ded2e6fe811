"""The checks of ``benchmarks/gpu_suite.py``: kernels pass them, and each of them finds a kernel that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel.kernels import block_lists, gather
from dit_accel.sparse.clusters import Clusters, Selection
from dit_accel.sparse.triton_backend import TritonBackend
from tests.kernels.conftest import DEVICE

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu_checks() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import gpu_checks

        yield gpu_checks


@pytest.fixture(scope="module")
def suite(gpu_checks: Any) -> Any:
    return gpu_checks.Suite(DEVICE, torch.float32, True, None)


def test_all_pass(gpu_checks: Any, suite: Any) -> None:
    rows = list(gpu_checks.checks(suite))
    assert [row.subject for row in rows] == [f"check: {name}" for name in gpu_checks.CHECKS]
    assert all(row.quality["max_error"] <= row.quality["bar"] and not row.setting for row in rows)


class Wrong(TritonBackend):
    """One token to a wrong cluster, two tokens in the wrong place, one variance off, one number of the output other
    each time."""

    calls = 0

    def assign(self, tokens: Tensor, centroids: Tensor) -> Tensor:
        labels = super().assign(tokens, centroids)
        labels[0, 0, 5] = (labels[0, 0, 5] + 1) % centroids.shape[2]
        return labels

    def group(self, labels: Tensor, num_clusters: int) -> Clusters:
        found = super().group(labels, num_clusters)
        found.order[0, 0, :2] = found.order[0, 0, :2].flip(0)
        return found

    def moments(self, tokens: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
        mean, variance = super().moments(tokens, clusters)
        variance[0, 1, 2, 3] += 1e-3
        return mean, variance

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        out = super().attend(query, key, value, selection, scale)
        Wrong.calls += 1
        out[0, 7, 1, 3] += 0.1 * Wrong.calls
        return out


@pytest.mark.parametrize("name", ["assign", "counting_sort", "moments", "attention", "same bits twice"])
def test_a_wrong_kernel_is_found(gpu_checks: Any, suite: Any, name: str) -> None:
    problem = gpu_checks.Problem(suite, torch.float32, 32)
    row = problem.row(name, *gpu_checks.CHECKS[name](problem, Wrong()))
    assert "is allowed" in row.setting["failed"]


def test_wrong_lists_and_wrong_copies_are_found(gpu_checks: Any, suite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = gpu_checks.Problem(suite, torch.float32, 32)
    right_lists, right_gather = block_lists.block_lists, gather.gather

    def lists(*arguments: Any) -> tuple[Tensor, Tensor]:
        found, lengths = right_lists(*arguments)
        found[0, 1, 1, 0] += 1
        return found, lengths

    def copies(*arguments: Any) -> Tensor:
        found = right_gather(*arguments)
        found[:, :, :, 1] = found[:, :, :, 1].roll(1, 2)
        return found

    monkeypatch.setattr(block_lists, "block_lists", lists)
    monkeypatch.setattr(gather, "gather", copies)
    assert gpu_checks.CHECKS["block_lists"](problem, TritonBackend()) == (1.0, 0.0)
    assert gpu_checks.CHECKS["gather"](problem, TritonBackend())[0] > 0


def test_nan_is_a_failure(gpu_checks: Any, suite: Any) -> None:
    problem = gpu_checks.Problem(suite, torch.float32, 32)
    assert "failed" in problem.row("check", float("nan"), 1e-5).setting


def test_every_kernel_runs_alone_as_it_is_timed(gpu_checks: Any, suite: Any) -> None:
    import gpu_attention
    import gpu_ops

    given = gpu_attention.setup(suite, "Wan 2.1 1.3B", 64)
    warm = gpu_attention.Warm(given, 0.3, "triton", num_q_centroids=2, num_k_centroids=6, kmeans_iters_init=1)
    assert 0.3 <= warm.density < 0.6
    ops = gpu_ops.ops_of(given, warm, TritonBackend())
    for name, (call, flops, nbytes) in ops.items():
        found = call()
        assert found is not None and flops >= 0 and nbytes > 0, name
    assert {name for name, (_, flops, _) in ops.items() if flops} == {
        *("assign, queries", "assign, keys", "attention", "attention with stand-ins")
    }
    assert ops["attention"][1] == pytest.approx(4 * warm.density * 64 * 64 * 2 * 32, rel=0.3)
