"""The backend ``"flex"``. Every dtype and shape compiles for seconds, so these are a part of the conformance suite.

All that its kernel depends on is covered: dtype, head size, with and without pseudo-tokens. What does not change the
kernel (strides, the order of tokens, which pairs are kept) is tested with one of those shapes.
"""

from __future__ import annotations

import pytest
import torch

from dit_accel.errors import BackendUnavailableError
from dit_accel.sparse import backends, flex_backend
from dit_accel.sparse.clusters import Clusters, Selection
from tests.sparse.conftest import relative_error, selection, tokens
from tests.sparse.test_backends import CPU, check

pytestmark = pytest.mark.usefixtures("compiler")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def compiler() -> None:
    """Skips where there is no C++ compiler; the reason is in the report."""
    try:
        backends.load_backend("flex", CPU)
    except BackendUnavailableError as problem:
        pytest.skip(str(problem))


KERNELS = [(64, F32, "none"), (64, F32, "mean"), (64, F32, "variance"), (64, F32, "some"), (48, F32, "variance")]
KERNELS += [(64, BF16, "none"), (96, BF16, "variance"), (128, BF16, "variance"), (64, F16, "variance")]


@pytest.mark.parametrize(("dim", "dtype", "pseudo"), KERNELS, ids=str)
def test_ragged_and_empty_clusters(dim: int, dtype: torch.dtype, pseudo: str) -> None:
    qkv = tokens(2, 203, 3, dim)
    check("flex", qkv, selection(qkv, 7, 11, pseudo=pseudo), dtype)


def test_one_cluster() -> None:
    qkv = tokens(2, 130, 3, 64)
    check("flex", qkv, selection(qkv, 1, 1, kept_share=2.0), F32)


def test_a_cluster_longer_than_a_block() -> None:
    qkv = tokens(2, 600, 3, 64)
    check("flex", qkv, selection(qkv, 1, 5, kept_share=0.6), F32)


def test_more_stand_ins_than_a_block_holds() -> None:
    qkv = tokens(2, 300, 3, 64)
    check("flex", qkv, selection(qkv, 3, 70), F32)


def test_both_lists_of_blocks_are_laid_out_alike() -> None:
    """Before torch 2.13 the kernel for GPUs finds both by the strides of one, and was wrong where they differed."""
    chosen = selection(tokens(2, 203, 3, 64), 7, 11)
    rows, columns = (flex_backend._Layout.of(*layout) for layout in ((chosen.query, 64), (chosen.key, 32, 32)))
    _, counts, which, pseudo_counts, pseudo_which = flex_backend._blocks(chosen, rows, columns, 32)
    assert (which.shape, which.stride()) == (pseudo_which.shape, pseudo_which.stride())
    assert (counts.shape, counts.stride()) == (pseudo_counts.shape, pseudo_counts.stride())


def test_strided_tokens() -> None:
    query, key, value = (torch.randn(2, 3, 150, 64, generator=torch.Generator().manual_seed(s)) for s in range(3))
    qkv = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    check("flex", qkv, selection(qkv, 5, 6), F32)


def test_a_query_that_keeps_nothing_gives_zero() -> None:
    qkv = tokens(2, 90, 3, 64)
    chosen = selection(qkv, 4, 5, pseudo="none")
    chosen.kept[0, 0, 1] = False
    found = backends.load_backend("flex", CPU).attend(*qkv, chosen, 0.125)
    is_first = chosen.query.labels[0, 0] == 1
    assert is_first.any()
    assert not found[0, is_first, 0].any()
    assert found[0, ~is_first, 0].any()


def test_the_order_of_tokens_does_not_matter() -> None:
    qkv = tokens(2, 120, 3, 64)
    chosen = selection(qkv, 5, 6)
    shuffle = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    shuffled = Selection(
        Clusters.of(chosen.query.labels[..., shuffle], 5),
        Clusters.of(chosen.key.labels[..., shuffle], 6),
        chosen.kept,
        chosen.pseudo,
    )
    backend = backends.load_backend("flex", CPU)
    found = backend.attend(*(x[:, shuffle] for x in qkv), shuffled, 0.125)
    assert relative_error(found, backend.attend(*qkv, chosen, 0.125)[:, shuffle]) <= 1e-5


def test_a_few_tokens_more_use_the_same_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = tokens(2, 203, 3, 64)
    check("flex", qkv, selection(qkv, 7, 11), F32)
    with torch.compiler.set_stance("fail_on_recompile"):
        qkv = tokens(2, 260, 3, 64)
        check("flex", qkv, selection(qkv, 6, 12), F32)


class TestNoSilentFallback:
    """Without a kernel, FlexAttention computes dense attention and ignores the blocks."""

    def test_compilation_switched_off_raises(self) -> None:
        qkv = tokens(2, 203, 3, 64)
        backend = backends.load_backend("flex", CPU)
        with (
            torch.compiler.set_stance("force_eager"),
            pytest.raises(BackendUnavailableError, match=r"needs torch.compile, which is switched off"),
        ):
            backend.attend(*qkv, selection(qkv, 7, 11), 0.125)

    def test_one_kernel_too_many_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flex_backend, "_MAX_KERNELS", 1)
        qkv = tokens(1, 100, 5, 32)
        with pytest.raises(
            BackendUnavailableError, match=r"1 kernels in this process, and torch.float32 of shape \(5"
        ):
            backends.load_backend("flex", CPU).attend(*qkv, selection(qkv, 2, 3), 0.125)

    def test_what_does_not_compile_raises_with_the_reason(self) -> None:
        qkv = tuple(x.double() for x in tokens(1, 100, 1, 16))
        with pytest.raises(
            BackendUnavailableError, match=r"cannot compile its kernel for torch.float64.*NotImplemented"
        ):
            backends.load_backend("flex", CPU).attend(*qkv, selection(qkv, 2, 3), 0.125)

    def test_the_limit_of_torch_is_left_as_it_was(self) -> None:
        before = torch._dynamo.config.recompile_limit
        qkv = tokens(2, 203, 3, 64)
        backends.load_backend("flex", CPU).attend(*qkv, selection(qkv, 7, 11), 0.125)
        assert torch._dynamo.config.recompile_limit == before
