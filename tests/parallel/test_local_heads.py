"""A rank of Ulysses does for its heads what one process does for all; and what it cannot compute sparsely is told."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import SVG2Config
from dit_accel._diffusers import AttentionCall
from dit_accel.run_record import RunRecord
from dit_accel.running import Running
from dit_accel.sparse import SVG2State, svg2_attention
from dit_accel.sparse.layers import SparseDenoiser, SparseLayer
from dit_accel.specs import AttentionSpec
from dit_accel.step_tracker import DenoiserCall

KNOBS: dict[str, Any] = {"top_p": 0.4, "num_q_centroids": 6, "num_k_centroids": 20, "min_tokens": 0}
MAX_DRIFT = 0.1


def drifting(steps: int, heads: int = 4) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values that move a little from step to step."""
    torch.manual_seed(0)
    start, end = torch.randn(2, 3, 2, 200, heads, 16)
    for step in range(steps):
        query, key, value = start + (end - start) * step / steps
        yield query, key, value


class Ranks:
    """Threads that add up what they have, as processes do."""

    def __init__(self, count: int) -> None:
        self._given: list[Tensor] = []
        self._meeting, self._pool = threading.Barrier(count, timeout=60), ThreadPoolExecutor(count)

    def add_up(self, values: Tensor) -> Tensor:
        self._given.append(values)
        self._meeting.wait()
        total = torch.stack(self._given).sum(0)
        if self._meeting.wait() == 0:
            self._given = []
        self._meeting.wait()
        return total

    def run(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        return [future.result() for future in [self._pool.submit(call) for call in calls]]


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_head_gets_the_same_bits_in_any_division_among_ranks(backend: str) -> None:
    config = SVG2Config(**KNOBS, backend=backend)
    whole, parts, ranks = SVG2State(), {heads: SVG2State() for heads in ((0, 3), (3, 4))}, Ranks(2)
    for query, key, value in drifting(3):
        expected, info = svg2_attention(query, key, value, config, state=whole)
        assert 0.1 < info.density < 0.9
        found = ranks.run(
            functools.partial(
                svg2_attention,
                *(x[:, :, slice(*heads)] for x in (query, key, value)),
                config,
                state=state,
                rank_sum=ranks.add_up,
            )
            for heads, state in parts.items()
        )
        for heads, (out, local) in zip(parts, found, strict=True):
            assert torch.equal(out, expected[:, :, slice(*heads)])
            assert local.error is not None and info.error is not None
            assert torch.equal(local.error, info.error[:, slice(*heads)])


def test_whether_clusters_have_drifted_is_asked_of_all_heads() -> None:
    """The other rank's heads are made up here: they have drifted by far, or not at all, whatever these have done."""
    config = SVG2Config(**KNOBS, refresh_every=100, max_drift=MAX_DRIFT)
    ages = {}
    for others in (0.0, 1000.0):
        state, asked = SVG2State(), 0

        def rank_sum(values: Tensor, others: float = others) -> Tensor:
            nonlocal asked
            if not values.is_floating_point():
                return values  # of the selection
            asked += 1
            return values + torch.tensor([1000.0 + asked * others, 1000.0], dtype=torch.float64)

        for query, key, value in drifting(4):
            svg2_attention(query, key, value, config, state=state, rank_sum=rank_sum)
        assert asked == 4
        ages[others] = state.calls
    assert ages == {0.0: 4, 1000.0: 1}


@pytest.mark.parametrize(
    ("knobs", "meetings"),
    [
        ({}, 3),
        ({"refresh_every": 2, "max_drift": 1e9}, 2 + 3),
        ({"refresh_every": 2, "probe_rows": 0}, 2),
        ({"top_p": 1.0}, 0),
    ],
)
def test_ranks_meet_to_select_and_to_ask_for_drift_and_no_more(knobs: dict[str, Any], meetings: int) -> None:
    asked, state = [], SVG2State()

    def rank_sum(values: Tensor) -> Tensor:
        asked.append(values.shape)
        return values

    for query, key, value in drifting(3):
        svg2_attention(query, key, value, SVG2Config(**{**KNOBS, **knobs}), state=state, rank_sum=rank_sum)
    assert len(asked) == meetings


@pytest.mark.parametrize("text", ["none", "start", "end"])
def test_text_that_was_divided_with_the_video_is_dense_and_counted(text: Any) -> None:
    """Rank after rank, its tokens stand in several places."""
    record = RunRecord()
    config = SVG2Config(**KNOBS, dense_steps=0, dense_layers=0)
    denoiser = SparseDenoiser("transformer", config, record, [], _nothing, Running())
    layer = SparseLayer(
        denoiser, AttentionSpec("attn", text=text), (0, "hidden_states"), lambda: False, is_dense=False
    )
    query, key, value = next(drifting(1))
    with torch.no_grad():
        denoiser.begin(DenoiserCall("transformer", "cond", 5, 10, 0))
        layer.enter((torch.zeros(2, 80, 8),), {})  # 80 of a rank's 100 tokens are video
        call = AttentionCall(query, key, value, None, None, None, lambda: value, lambda sums: sums)
        out = layer.attend(call)
    reasons = record.stats().dense_reasons
    if text == "none":
        assert reasons == {} and record.stats().sparse_calls == 1
    else:
        assert reasons == {"context parallelism divides text and video": 1} and out is value


def _nothing() -> None:
    """No reason to refuse."""
