"""Attention against the masked dense oracle, at sizes that take every path of the kernel more than once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.kernels import attention
from dit_accel.kernels.block_lists import list_bytes
from dit_accel.sparse import reference
from dit_accel.sparse.clusters import Clusters, Selection, summarize
from dit_accel.sparse.triton_backend import TritonBackend
from tests.kernels.conftest import DEVICE, DTYPES, clusters_of_sizes, random, random_labels
from tests.sparse.conftest import relative_error

BARS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 5e-3}
BACKEND = TritonBackend()


def check(query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
    found = BACKEND.attend(query, key, value, selection, scale)
    wanted = reference.attend(query.float(), key.float(), value.float(), selection, scale)
    assert found.dtype is query.dtype
    assert found.is_contiguous()
    assert found.isfinite().all()
    assert relative_error(found, wanted) <= BARS[query.dtype]
    return found


def ones(queries: Clusters, keys: Clusters) -> Tensor:
    return torch.ones(*queries.sizes.shape, keys.sizes.shape[-1], dtype=torch.bool, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 128])
def test_several_tiles_of_queries_keys_and_rests(dtype: torch.dtype, dim: int) -> None:
    # Queries: more than one tile, a whole one, a half and less. Keys: whole tiles without mask, and 40 rests.
    queries = clusters_of_sizes(150, 128, 64, 0, 70, 68)
    keys = clusters_of_sizes(293, *[3] * 36, 0, 79)
    query, key, value = (random(1, 480, 1, dim, seed=seed, dtype=dtype) for seed in range(3))
    kept = ones(queries, keys)
    kept[0, 0, 1, 5:30] = False
    kept[0, 0, 4, :38] = False
    check(query, key, value, Selection(queries, keys, kept), dim**-0.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_tiles_of_stand_ins(dtype: torch.dtype) -> None:
    queries, keys = clusters_of_sizes(100, 70, heads=3), clusters_of_sizes(*[1] * 150, 20, heads=3)
    query, key, value = (random(1, 170, 3, 64, seed=seed, dtype=dtype) for seed in range(3))
    kept = torch.rand(1, 3, 2, 151, generator=torch.Generator().manual_seed(0)).to(DEVICE) < 0.2
    kept[0, 1, 1] = False  # nothing but stand-ins, and none of them in the first tile
    pseudo = summarize(key, value, keys)
    pseudo.log_size[0, 1, :80] = -torch.inf
    pseudo.log_size[0, 2] = -torch.inf  # a head without any, half of whose queries keep nothing
    kept[0, 2, 0] = False
    found = check(query, key, value, Selection(queries, keys, kept, pseudo), 0.125)
    assert not found[0, queries.labels[0, 2] == 0, 2].any()


@pytest.mark.parametrize("factor", [1e-3, 30.0])
def test_flat_and_steep_logits(factor: float) -> None:
    queries, keys = clusters_of_sizes(201), clusters_of_sizes(130, 60, 11)
    query, key, value = (random(1, 201, 1, 64, seed=seed) for seed in range(3))
    kept = ones(queries, keys)
    kept[..., 2] = False
    pseudo = summarize(key, value, keys)
    pseudo = replace(pseudo, half_variance=pseudo.half_variance / factor)
    check(query * factor, key, value, Selection(queries, keys, kept, pseudo), 0.125)


def test_heads_in_groups_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = clusters_of_sizes(40, 13, 17, heads=5)
    qkv = [random(1, 70, 5, 32, seed=seed) for seed in range(3)]
    kept = torch.rand(1, 5, 3, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE) < 0.6
    selection = Selection(clusters, clusters, kept, summarize(qkv[1], qkv[2], clusters))
    at_once = BACKEND.attend(*qkv, selection, 0.2)
    monkeypatch.setattr(attention, "_LIST_BYTES", 2 * list_bytes(70, 3, 3))
    assert torch.equal(BACKEND.attend(*qkv, selection, 0.2), at_once)


def test_channels_may_be_strided() -> None:
    whole = [random(2, 70, 2, 48, seed=seed) for seed in range(3)]
    clusters = Clusters.of(random_labels(2, 2, 70, 4), 4)
    selection = Selection(clusters, clusters, ones(clusters, clusters))
    strided = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in whole]
    assert torch.equal(BACKEND.attend(*strided, selection, 0.1), BACKEND.attend(*whole, selection, 0.1))


def test_it_is_the_same_to_the_bit_every_time() -> None:
    query, key, value = (random(1, 150, 2, 64, seed=seed) for seed in range(3))
    found = []
    for _ in range(2):
        clusters = BACKEND.group(BACKEND.assign(key, random(1, 2, 12, 64, seed=3)), 12)
        kept = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0)).to(DEVICE) < 0.4
        found.append(BACKEND.attend(query, key, value, Selection(clusters, clusters, kept), 0.125))
    assert torch.equal(*found)


@pytest.mark.parametrize("scale", [0.0, -0.125])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    query, clusters = random(1, 8, 1, 16), clusters_of_sizes(8)
    with pytest.raises(ConfigError, match=f"needs a positive scale, got {scale}"):
        BACKEND.attend(query, query, query, Selection(clusters, clusters, ones(clusters, clusters)), scale)
