"""Bytes of indices at the size of Wan 2.1 at 720p: one layer and branch, between two steps and at the peak of a call.

A list of token indices for every cluster of queries would take 1 GiB at a density of 0.3, and 3.4 GiB at worst.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dit_accel.configs import SVG2Config
from dit_accel.sparse import SVG2State, svg2
from dit_accel.sparse.torch_backend import TorchBackend
from tests.sparse.conftest import selection, tokens

NUM_TOKENS, HEADS, DIM = 75_600, 40, 128
GIB = 1 << 30


class IndexBytes(TorchDispatchMode):
    """Counts the bytes of integer and bool tensors that are alive, and their peak. Views count as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            is_index = isinstance(tensor, torch.Tensor) and not tensor.is_floating_point()
            if is_index and tensor.untyped_storage()._cdata not in known:
                self._count(tensor.nbytes)
                weakref.finalize(tensor, self._count, -tensor.nbytes)
        return result

    def _count(self, nbytes: int) -> None:
        self.alive += nbytes
        self.peak = max(self.peak, self.alive)


def state_of(num_tokens: int, heads: int, dim: int, device: str) -> SVG2State:
    """What a step leaves behind; no number of it is needed, so the tensors may be meta."""
    query = torch.zeros(1, num_tokens, heads, dim, dtype=torch.bfloat16, device=device)
    state, layout = SVG2State(), svg2._Layout(0, num_tokens, None)
    svg2._refresh(state, query, query, query, SVG2Config(), layout, TorchBackend(), dim**-0.5, None)
    return state


def test_a_layer_stays_below_0_3_gib() -> None:
    state = state_of(NUM_TOKENS, HEADS, DIM, "meta")
    assert state.kept is not None
    assert state.kept.shape == (1, HEADS, NUM_TOKENS // 256, NUM_TOKENS // 64)
    assert 0.05 * GIB < state.nbytes + index_bytes_of_attend_per_token() * NUM_TOKENS < 0.3 * GIB


def test_meta_tensors_tell_the_size_of_real_ones() -> None:
    assert state_of(1024, 2, 32, "meta").nbytes == state_of(1024, 2, 32, "cpu").nbytes


@pytest.mark.parametrize("heads", [1, 4])
def test_indices_of_a_call_are_of_one_head(heads: int) -> None:
    assert index_bytes_of_attend_per_token(heads=heads) < 40


@pytest.mark.parametrize("length", [512, 4096])
def test_indices_of_a_call_grow_no_faster_than_the_sequence(length: int) -> None:
    assert index_bytes_of_attend_per_token(length) < 40


def index_bytes_of_attend_per_token(length: int = 2048, heads: int = 2) -> float:
    """Peak of what `TorchBackend.attend` allocates, when everything is kept: the longest lists."""
    qkv = tokens(1, length, heads, 32)
    chosen = selection(qkv, length // 256, length // 64, kept_share=2.0)
    with IndexBytes() as found:
        TorchBackend().attend(*qkv, chosen, 0.2)
    assert found.alive == 0
    assert found.peak >= 8 * length  # it does count: the order of queries alone is so long
    return found.peak / length
