"""Assignment against all distances in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_accel.kernels.assign import assign
from tests.kernels.conftest import DTYPES, random


def reference(tokens: Tensor, centroids: Tensor) -> Tensor:
    rounded = centroids.to(tokens.dtype).double()
    return torch.cdist(tokens.transpose(1, 2).double(), rounded).argmin(-1).int()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "num_centroids", "dim"), [(203, 70, 48), (64, 64, 128), (5, 3, 16), (1, 1, 96)])
def test_it_finds_the_nearest(dtype: torch.dtype, length: int, num_centroids: int, dim: int) -> None:
    tokens, centroids = random(2, length, 3, dim, dtype=dtype), random(2, 3, num_centroids, dim, seed=1)
    found = assign(tokens, centroids)
    assert found.dtype is torch.int32
    assert torch.equal(found, reference(tokens, centroids))


@pytest.mark.parametrize("layout", ["heads first", "every other channel", "a part"])
def test_strides_do_not_matter(layout: str) -> None:
    whole = random(2, 90, 3, 64)
    tokens = {
        "heads first": whole.transpose(1, 2).contiguous().transpose(1, 2),
        "every other channel": whole.repeat_interleave(2, dim=-1)[..., ::2],
        "a part": torch.cat([random(2, 7, 3, 64, seed=2), whole], dim=1)[:, 7:],
    }[layout]
    centroids = random(2, 3, 11, 64, seed=1)
    assert not tokens.is_contiguous()
    assert torch.equal(assign(tokens, centroids), reference(whole, centroids))


@pytest.mark.parametrize("count", [7, 64])  # the second of a pair is in the same tile, or in the same lane of another
def test_of_equals_it_is_the_lowest(count: int) -> None:
    tokens, centroids = random(1, 50, 2, 32), random(1, 2, count, 32, seed=1)
    twice = torch.cat([centroids, centroids], dim=2)
    assert torch.equal(assign(tokens, twice), reference(tokens, centroids))


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")  # ∞ · 0, interpreted
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_token_gets_a_label_that_exists(bad: float) -> None:
    tokens, centroids = random(1, 40, 1, 32), random(1, 1, 5, 32, seed=1)
    good = assign(tokens, centroids)
    tokens[0, 7, 0, 3] = bad
    found = assign(tokens, centroids)
    assert 0 <= found[0, 0, 7] < 5
    is_other = torch.arange(40, device=tokens.device) != 7
    assert torch.equal(found[..., is_other], good[..., is_other])
