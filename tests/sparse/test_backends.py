"""Every backend on the same selections, against the masked dense oracle."""

from __future__ import annotations

import os
from typing import get_args

import pytest
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from dit_accel import configs
from dit_accel.errors import BackendUnavailableError, ConfigError
from dit_accel.sparse import backends, reference, torch_backend
from dit_accel.sparse.clusters import Clusters, Selection
from tests.sparse.conftest import Tokens, relative_error, selection, tokens

CPU = torch.device("cpu")
NAMES = ("reference", "torch")
BARS = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
CASES = [(name, dtype) for name in NAMES for dtype in BARS]
if os.environ.get("TRITON_INTERPRET") == "1":  # set by tests/test_kernels.py; the interpreter multiplies no bfloat16
    CASES = [("triton", dtype) for dtype in BARS if dtype != torch.bfloat16]


def check(name: str, qkv: Tokens, chosen: Selection, dtype: torch.dtype) -> None:
    """The backend in ``dtype`` against the oracle in float32 on the same rounded tokens."""
    given = tuple(x.to(dtype) for x in qkv)
    scale = qkv[0].shape[-1] ** -0.5
    wanted = reference.attend(*(x.float() for x in given), chosen, scale)
    found = backends.load_backend(name, CPU).attend(*given, chosen, scale)
    assert found.dtype is dtype
    assert found.is_contiguous()
    assert relative_error(found, wanted) <= BARS[dtype]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
class TestConformance:
    @pytest.mark.parametrize("pseudo", ["none", "mean", "variance", "some"])
    @pytest.mark.parametrize("dim", [48, 64, 96, 128])
    def test_ragged_and_empty_clusters(self, name: str, dtype: torch.dtype, dim: int, pseudo: str) -> None:
        qkv = tokens(2, 203, 2, dim)
        check(name, qkv, selection(qkv, 5, 9, pseudo=pseudo), dtype)

    @pytest.mark.parametrize("pseudo", ["none", "variance"])
    def test_one_cluster(self, name: str, dtype: torch.dtype, pseudo: str) -> None:
        qkv = tokens(1, 130, 2, 64)
        check(name, qkv, selection(qkv, 1, 1, pseudo=pseudo, kept_share=2.0), dtype)

    def test_a_cluster_longer_than_a_tile(self, name: str, dtype: torch.dtype) -> None:
        qkv = tokens(1, 600, 1, 64)
        check(name, qkv, selection(qkv, 1, 5, kept_share=0.6), dtype)

    def test_text_is_kept_by_all_and_keeps_all(self, name: str, dtype: torch.dtype) -> None:
        qkv = tokens(2, 160, 2, 64)
        chosen = selection(qkv, 6, 8)
        assert chosen.pseudo is not None
        is_text = torch.arange(160) >= 145
        with_text = Selection(
            Clusters.of(chosen.query.labels.masked_fill(is_text, 6), 7),
            Clusters.of(chosen.key.labels.masked_fill(is_text, 8), 9),
            pad(chosen.kept, (0, 1, 0, 1), value=True),
            chosen.pseudo.with_empty(1),
        )
        check(name, qkv, with_text, dtype)
        found = backends.load_backend(name, CPU).attend(*(x.to(dtype) for x in qkv), with_text, 0.125)
        dense = scaled_dot_product_attention(*(x.to(dtype).float().transpose(1, 2) for x in qkv), scale=0.125)
        assert relative_error(found[:, 145:], dense.transpose(1, 2)[:, 145:]) <= BARS[dtype]

    def test_strided_tokens(self, name: str, dtype: torch.dtype) -> None:
        query, key, value = (torch.randn(2, 3, 150, 64, generator=torch.Generator().manual_seed(s)) for s in range(3))
        qkv = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        check(name, qkv, selection(qkv, 5, 6), dtype)

    def test_all_kept_is_dense_attention(self, name: str, dtype: torch.dtype) -> None:
        qkv = tuple(x.to(dtype) for x in tokens(2, 190, 2, 64))
        chosen = selection(qkv, 6, 9, kept_share=2.0)  # pseudo-tokens stand for nothing
        found = backends.load_backend(name, CPU).attend(*qkv, chosen, 0.125)
        dense = scaled_dot_product_attention(*(x.float().transpose(1, 2) for x in qkv), scale=0.125).transpose(1, 2)
        assert relative_error(found, dense) <= BARS[dtype]

    def test_a_query_that_keeps_nothing_gives_zero(self, name: str, dtype: torch.dtype) -> None:
        qkv = tuple(x.to(dtype) for x in tokens(1, 90, 1, 64))
        chosen = selection(qkv, 4, 5, pseudo="none")
        chosen.kept[0, 0, 1] = False
        found = backends.load_backend(name, CPU).attend(*qkv, chosen, 0.125)
        is_first = chosen.query.labels[0, 0] == 1
        assert is_first.any()
        assert not found[0, is_first].any()

    def test_the_order_of_tokens_does_not_matter(self, name: str, dtype: torch.dtype) -> None:
        qkv = tuple(x.to(dtype) for x in tokens(1, 120, 2, 64))
        chosen = selection(qkv, 5, 6)
        shuffle = torch.randperm(120, generator=torch.Generator().manual_seed(3))
        backend = backends.load_backend(name, CPU)
        shuffled = Selection(
            Clusters.of(chosen.query.labels[..., shuffle], 5),
            Clusters.of(chosen.key.labels[..., shuffle], 6),
            chosen.kept,
            chosen.pseudo,
        )
        found = backend.attend(*(x[:, shuffle] for x in qkv), shuffled, 0.125)
        wanted = backend.attend(*qkv, chosen, 0.125)[:, shuffle]
        assert relative_error(found, wanted) <= BARS[dtype]


@pytest.mark.parametrize("dtype", list(BARS), ids=str)
def test_attention_off_the_cpu_is_that_on_it(dtype: torch.dtype) -> None:
    """Of the backend "torch": output and mass, with columns that only fill a block up."""
    query, key, value = (x[0, :, 0].to(dtype) for x in tokens(1, 128, 1, 64))
    bias = torch.zeros(1, 1, 128, 128, dtype=dtype)
    bias[..., 100:] = -torch.inf
    found = [
        attend(query, key, value, bias, 0.125)
        for attend in (torch_backend._flash_attention, torch_backend._plain_attention)
    ]
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) <= BARS[dtype]
    assert found[0].mass.shape == (128, 1) and found[0].mass.dtype == torch.float32


@pytest.mark.parametrize("pseudo", ["none", "variance"])
@pytest.mark.parametrize("name", NAMES)
def test_a_query_that_is_not_a_number_gives_none(name: str, pseudo: str) -> None:
    """Not zero, which would look like a result. Other queries of its cluster are left alone."""
    query, key, value = tokens(1, 120, 1, 64)
    chosen = selection((query, key, value), 4, 6, pseudo=pseudo, kept_share=0.6)
    query[0, 7] = torch.nan
    found = backends.load_backend(name, CPU).attend(query, key, value, chosen, 0.125)
    assert found[0, 7].isnan().all()
    assert found[0, torch.arange(120) != 7].isfinite().all()


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no backend 'torhc'.*Did you mean 'torch'"):
        backends.load_backend("torhc", CPU)


def test_a_backend_on_the_wrong_device_says_where_it_runs() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'torch' runs on cpu and cuda, these tensors are on meta"):
        backends.load_backend("torch", torch.device("meta"))


def test_the_report_has_a_reason_for_all_that_cannot_run() -> None:
    report = backends.backend_report(CPU)
    assert {"auto", *report} == set(get_args(configs.Backend))
    assert report["torch"] == report["reference"] == "ok"
    assert report["flashinfer"].startswith("The backend 'flashinfer' runs on cuda, these tensors are on cpu.")


def test_auto_is_a_fast_one() -> None:
    assert type(backends.load_backend("auto", CPU)).__name__ == "TorchBackend"


def test_auto_says_what_it_tried_where_nothing_runs() -> None:
    with pytest.raises(BackendUnavailableError, match="'torch' runs on cpu and cuda"):
        backends.load_backend("auto", torch.device("meta"))
