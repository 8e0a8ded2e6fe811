"""The backend ``"flashinfer"`` around a wrapper that does in torch what FlashInfer's does on a GPU."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from dit_accel.errors import BackendUnavailableError
from dit_accel.sparse import flashinfer_backend, reference
from dit_accel.sparse.clusters import Selection
from dit_accel.sparse.flashinfer_backend import FlashInferBackend, merge_stand_ins
from tests.sparse.conftest import Tokens, relative_error, selection, tokens


class BlockSparseInTorch:
    """``plan`` and ``run`` of `VariableBlockSparseAttentionWrapper` 0.7.2: heads first, mass in base 2."""

    def __init__(self) -> None:
        self.plans = 0

    def plan(
        self,
        block_mask_map: Tensor,
        block_row_sz: Tensor,
        block_col_sz: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        sm_scale: float,
        q_data_type: torch.dtype,
    ) -> None:
        assert block_mask_map.shape == (num_kv_heads, block_row_sz.shape[1], block_col_sz.shape[1])
        assert num_qo_heads == num_kv_heads
        assert block_mask_map[(block_row_sz > 0)[:, :, None] & (block_col_sz > 0)[:, None]].any()
        self.plans += 1
        self.mask, self.rows, self.columns = block_mask_map, block_row_sz.long(), block_col_sz.long()
        self.scale, self.kind = sm_scale, (num_qo_heads, head_dim, q_data_type)

    def run(self, q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool) -> tuple[Tensor, Tensor]:
        assert return_lse
        assert (q.shape[0], q.shape[2], q.dtype) == self.kind
        outputs, masses = [], []
        for head, mask in enumerate(self.mask):
            is_kept = mask.repeat_interleave(self.rows[head], 0).repeat_interleave(self.columns[head], 1)
            logits = (q[head].float() @ k[head].float().T * self.scale).masked_fill(~is_kept, -torch.inf)
            outputs.append(logits.softmax(-1) @ v[head].float())  # NaN without keys
            masses.append(logits.logsumexp(-1) / math.log(2))
        return torch.stack(outputs).to(q.dtype), torch.stack(masses)


def attend(qkv: Tokens, chosen: Selection, dtype: torch.dtype) -> Tensor:
    return FlashInferBackend(BlockSparseInTorch()).attend(*(x.to(dtype) for x in qkv), chosen, 0.125)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.bfloat16, 5e-3), (torch.float16, 1e-3)], ids=str)
@pytest.mark.parametrize("pseudo", ["none", "mean", "variance", "some"])
def test_it_is_the_reference(pseudo: str, dtype: torch.dtype, bar: float) -> None:
    qkv = tokens(2, 203, 3, 64)
    chosen = selection(qkv, 7, 11, pseudo=pseudo)
    wanted = reference.attend(*(x.to(dtype).float() for x in qkv), chosen, 0.125)
    found = attend(qkv, chosen, dtype)
    assert found.dtype is dtype
    assert found.is_contiguous()
    assert relative_error(found, wanted) <= bar


@pytest.mark.parametrize("pseudo", ["none", "variance"])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_queries_without_keys(pseudo: str, share: float) -> None:
    qkv = tokens(1, 90, 2, 64)
    chosen = selection(qkv, 6, 5, pseudo=pseudo, kept_share=share)
    wanted = reference.attend(*(x.bfloat16().float() for x in qkv), chosen, 0.125)
    found = attend(qkv, chosen, torch.bfloat16)
    assert found.isfinite().all()
    assert torch.equal(found == 0, wanted == 0)
    torch.testing.assert_close(found.float(), wanted, atol=1e-2, rtol=1e-2)


def test_nothing_kept_at_all_is_not_planned() -> None:
    wrapper = BlockSparseInTorch()
    qkv = tuple(x.bfloat16() for x in tokens(1, 90, 2, 64))
    chosen = selection(tokens(1, 90, 2, 64), 6, 5, pseudo="none", kept_share=0.0)
    assert not FlashInferBackend(wrapper).attend(*qkv, chosen, 0.125).any()
    assert wrapper.plans == 0


def test_the_merge_is_exact_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashinfer_backend, "_ROWS", 64)
    qkv = tokens(2, 150, 3, 32)
    chosen = selection(qkv, 5, 9)
    order = chosen.query.order.long()[..., None].expand(-1, -1, -1, 32)
    queries = qkv[0].transpose(1, 2).gather(2, order)
    logits = reference.token_logits(qkv[0], qkv[1], chosen, torch.arange(150), 0.2)[..., :150]
    out = (logits.softmax(-1).nan_to_num(0.0) @ qkv[2].transpose(1, 2)).gather(2, order)
    mass = logits.logsumexp(-1).gather(2, order[..., 0])
    wanted = reference.attend(*qkv, chosen, 0.2).transpose(1, 2).gather(2, order)
    assert relative_error(merge_stand_ins(out, mass, queries, chosen, 0.2), wanted) < 1e-6
    assert relative_error(out, wanted) > 0.1


@pytest.mark.parametrize(("dtype", "dim"), [(torch.float32, 64), (torch.bfloat16, 96)])
def test_what_flashinfer_has_no_kernel_for_raises(dtype: torch.dtype, dim: int) -> None:
    qkv = tokens(1, 50, 1, dim)
    with pytest.raises(BackendUnavailableError, match=f"64, 128 or 256 channels, got {dtype} and {dim}"):
        attend(qkv, selection(qkv, 2, 2), dtype)


class TestLoad:
    def test_it_needs_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(BackendUnavailableError, match="needs a CUDA GPU, torch finds none"):
            flashinfer_backend.load(torch.device("cuda"))

    def test_it_needs_flashinfer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))  # has no sparse
        monkeypatch.delitem(sys.modules, "flashinfer.sparse", raising=False)
        with pytest.raises(
            BackendUnavailableError, match=r"cannot import FlashInfer: .*pip install flashinfer-python"
        ):
            flashinfer_backend.load(torch.device("cuda"))
