"""The executor on a denoiser whose arithmetic fits in the head: blocks add 10 and 20, so the residual is 30."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_accel._diffusers import DenoiserCall, stream_positions, wrap_block
from dit_accel.cache.executor import BlockRangeExecutor
from dit_accel.cache.policies import SchedulePolicy
from dit_accel.cache.state import RunRecord
from dit_accel.schedule import CacheSchedule


class Add(nn.Module):
    """A block of one stream."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount, self.calls = amount, 0

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Tensor:
        self.calls += 1
        return hidden_states + self.amount * scale


class AddTwo(nn.Module):
    """A block of two streams, which it takes after another argument and returns text first."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount, self.calls = amount, 0

    def forward(self, flag: bool, text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return text + self.amount, video + 2 * self.amount


class Bench:
    """Blocks under an executor, driven step by step as a pipeline would."""

    def __init__(
        self,
        blocks: list[nn.Module],
        compute: tuple[int, ...],
        *,
        num_steps: int = 4,
        streams: tuple[str, ...] = ("hidden_states",),
        first: int = 0,
        last: int | None = None,
        record: RunRecord | None = None,
        peers: list[BlockRangeExecutor] | None = None,
        name: str = "transformer",
    ) -> None:
        self.blocks, self.num_steps, self.name = blocks, num_steps, name
        self.record = record or RunRecord()
        self.executor = BlockRangeExecutor(
            SchedulePolicy(CacheSchedule(num_steps, compute)),
            self.record,
            first=first,
            last=len(blocks) - 1 if last is None else last,
            positions=stream_positions(blocks[0], streams),
            streams=streams,
            peers=peers,
        )
        for index, block in enumerate(blocks):
            wrap_block(block, index, self.executor)

    def begin(self, step: int, branch: str = "cond", trajectory: int = 0) -> None:
        self.executor.begin(DenoiserCall(self.name, branch, step, self.num_steps, trajectory))

    def step(self, step: int, value: float | Tensor, branch: str = "cond", trajectory: int = 0) -> Any:
        """One forward: every block once, hidden states by position."""
        x = torch.full((1, 2), float(value)) if isinstance(value, (int, float)) else value
        with torch.no_grad():
            self.begin(step, branch, trajectory)
            for block in self.blocks:
                x = block(x)
            self.executor.end()
        return x

    @property
    def calls(self) -> list[int]:
        return [block.calls for block in self.blocks]

    @property
    def stats(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        stats = self.record.stats()
        return stats.computed_steps.get(self.name, {}), stats.reused_steps.get(self.name, {})

    def held(self) -> list[Tensor]:
        states = (*self.executor._states.values(), self.executor._state)
        return [tensor for state in states for kept in (state.entry, state.residual) for tensor in kept or ()]


def equals(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all())


def test_a_reused_step_is_its_input_plus_the_kept_residual():
    bench = Bench([Add(10), Add(20)], compute=(0, 3))
    assert equals(bench.step(0, 1), 1 + 30)
    assert bench.calls == [1, 1]
    assert equals(bench.step(1, 11), 11 + 30)
    assert equals(bench.step(2, 100), 100 + 30)
    assert bench.calls == [1, 1]
    assert equals(bench.step(3, 7), 7 + 30)
    assert bench.calls == [2, 2]
    assert bench.stats == ({"cond": [0, 3]}, {"cond": [1, 2]})


def test_the_residual_of_the_last_computed_step_is_used():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0, 2))
    bench.step(0, 1)
    assert equals(bench.step(1, 5), 35)
    blocks[0].amount = 1000
    bench.step(2, 1)
    assert equals(bench.step(3, 5), 5 + 1020)


def test_branches_keep_a_residual_each():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    bench.step(0, 1, "cond")
    blocks[1].amount = 200
    bench.step(0, 1, "uncond")
    assert equals(bench.step(1, 5, "cond"), 35)
    assert equals(bench.step(1, 5, "uncond"), 215)
    assert bench.stats == ({"cond": [0], "uncond": [0]}, {"cond": [1], "uncond": [1]})


def test_probe_and_corrector_blocks_always_run():
    bench = Bench([Add(1), Add(10), Add(20), Add(300)], compute=(0,), first=1, last=2)
    assert equals(bench.step(0, 0), 331)
    bench.blocks[0].amount, bench.blocks[3].amount = 2, 400
    assert equals(bench.step(1, 0), 2 + 30 + 400)
    assert bench.calls == [2, 1, 1, 2]


def test_a_range_of_one_block():
    bench = Bench([Add(10)], compute=(0,))
    bench.step(0, 1)
    assert equals(bench.step(1, 5), 15)
    assert bench.calls == [1]


def test_two_streams_have_a_residual_each_by_position_and_by_keyword():
    blocks = [AddTwo(10), AddTwo(20)]
    bench = Bench(blocks, compute=(0,), streams=("text", "video"))
    text, video = torch.zeros(1, 2), torch.ones(1, 5)
    with torch.no_grad():
        for step, (text_in, video_in) in enumerate([(text, video), (text + 7, video + 8)]):
            bench.begin(step)
            t, v = blocks[0](True, text_in, video=video_in)
            assert isinstance(t, Tensor)
            t, v = blocks[1](flag=True, video=v, text=t)
            bench.executor.end()
            assert equals(t, float(text_in[0, 0]) + 30)
            assert equals(v, float(video_in[0, 0]) + 60)
            assert (t.shape, v.shape) == ((1, 2), (1, 5))
    assert bench.calls == [1, 1]
    assert bench.record.stats().cache_bytes_peak == (2 + 5) * 4


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_added_between_blocks_counts_once(in_place):
    """As VACE hints are. The kept residual holds the hint already; at reuse the model adds it again."""
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    with torch.no_grad():
        for step, value in enumerate([1.0, 11.0]):
            given = torch.full((1, 2), value)
            bench.begin(step)
            x = blocks[0](given)
            if in_place:
                x += 500
            else:
                x = x + 500
            x = blocks[1](x)
            bench.executor.end()
            assert equals(x, value + 530)
            assert equals(given, value)


def test_other_arguments_reach_the_blocks():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    with torch.no_grad():
        bench.begin(0)
        x = blocks[1](blocks[0](torch.zeros(1, 2), 3.0), scale=2.0)
        bench.executor.end()
    assert equals(x, 70)
    assert equals(bench.step(1, 5), 75)


def test_another_shape_in_the_middle_of_a_trajectory_is_computed():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, torch.zeros(1, 2))
    assert equals(bench.step(1, torch.zeros(1, 6)), 30)
    assert bench.calls == [2, 2]
    assert equals(bench.step(2, torch.full((1, 6), 5.0)), 35)
    assert bench.calls == [2, 2]
    assert bench.stats == ({"cond": [0, 1]}, {"cond": [2]})
    assert bench.record.cache_bytes_peak == 6 * 4


def test_another_dtype_in_the_middle_of_a_trajectory_is_computed():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, torch.zeros(1, 2))
    assert bench.step(1, torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64
    assert bench.stats == ({"cond": [0, 1]}, {})


def test_with_gradients_nothing_is_reused_or_kept():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    for step in (0, 1):
        x = torch.ones(1, 2, requires_grad=True)
        bench.begin(step)
        out = blocks[1](blocks[0](x))
        bench.executor.end()
        out.sum().backward()
        assert equals(x.grad, 1)
        assert bench.held() == []
    assert bench.stats == ({"cond": [0, 1]}, {})


def test_a_residual_kept_without_gradients_is_not_reused_with_them():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    bench.step(0, 1)
    bench.begin(1)
    blocks[1](blocks[0](torch.ones(1, 2)))
    bench.executor.end()
    assert bench.stats == ({"cond": [0, 1]}, {})


def test_a_residual_is_kept_only_where_a_later_step_needs_it():
    bench = Bench([Add(10), Add(20)], compute=(0, 1, 4), num_steps=6)
    kept = []
    for step in range(6):
        bench.step(step, 1)
        kept.append(sum(state.residual is not None for state in bench.executor._states.values()))
    assert kept == [0, 1, 1, 0, 1, 0]
    assert bench.record.cache_bytes == 0


def test_the_buffer_is_filled_anew_rather_than_replaced():
    # Only a policy that keeps more than a schedule does computes while the buffer is full.
    bench = Bench([Add(10), Add(20)], compute=(0, 2), num_steps=6)
    bench.step(0, 1)
    bench.executor._policy.is_kept = lambda call: True
    bench.step(1, 1)
    before = bench.executor._states["cond"].residual[0].data_ptr()
    bench.step(2, 1)
    assert bench.executor._states["cond"].residual[0].data_ptr() == before
    assert bench.record.cache_bytes_peak == 2 * 4


def test_the_residual_dies_with_the_trajectory():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, 1)
    residual = weakref.ref(bench.executor._states["cond"].residual[0])
    assert residual() is not None
    for step in (1, 2, 3):
        bench.step(step, 1)
    gc.collect()
    assert residual() is None
    assert bench.held() == []


def test_a_new_trajectory_starts_without_the_old_residual():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    bench.step(0, 1)
    blocks[0].amount = 1000
    assert equals(bench.step(1, 5, trajectory=1), 5 + 1020)
    assert bench.stats == ({"cond": [1]}, {})
    assert equals(bench.step(2, 5, trajectory=1), 5 + 1020)
    assert bench.stats == ({"cond": [1]}, {"cond": [2]})


def test_release_frees_what_an_aborted_forward_left():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    with torch.no_grad():
        bench.begin(0)
        blocks[0](torch.ones(1, 2))
    assert bench.held()
    bench.executor.release()
    assert bench.held() == []
    assert equals(blocks[0](torch.ones(1, 2)), 11), "outside a forward a block is itself"


def test_blocks_called_outside_a_forward_are_themselves():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, 1)
    assert equals(bench.blocks[0](torch.ones(1, 2)), 11)
    assert bench.stats == ({"cond": [0]}, {})


@pytest.fixture
def pair() -> tuple[Bench, Bench]:
    """Two denoisers of one pipeline, as in Wan 2.2; the second takes over midway."""
    record, peers = RunRecord(), []
    high = Bench([Add(10)], (0, 2), num_steps=8, record=record, peers=peers, name="transformer")
    low = Bench([Add(1000)], (0, 2), num_steps=8, record=record, peers=peers, name="transformer_2")
    return high, low


def test_the_second_denoiser_computes_first_and_the_first_ones_residual_is_freed(pair):
    high, low = pair
    for step in range(4):
        high.step(step, 1)
    assert high.held()
    assert equals(low.step(4, 5), 1005)
    assert equals(low.step(5, 6), 1006)
    assert high.held() == []
    assert low.calls == [1]
    for step in (6, 7):
        low.step(step, 1)
    assert low.held() == []
    assert high.stats == ({"cond": [0, 2]}, {"cond": [1, 3]})
    assert low.stats == ({"cond": [4]}, {"cond": [5, 6, 7]})
    assert high.record.cache_bytes == 0


def test_two_denoisers_in_every_step_keep_their_residuals(pair):
    high, low = pair
    for step in range(8):
        assert equals(high.step(step, 1), 11)
        assert equals(low.step(step, 1), 1001)
    assert high.calls == low.calls == [2]
    assert high.record.cache_bytes_peak == 2 * 2 * 4


def test_an_aborted_run_of_the_second_denoiser_does_not_spoil_the_next_runs_bytes(pair):
    high, low = pair
    high.step(3, 1)
    low.step(4, 1)
    assert low.held()
    for step in range(4):
        high.step(step, 1, trajectory=1)
    assert low.held() == []
    for step in range(4, 8):
        low.step(step, 1, trajectory=1)
    assert high.record.cache_bytes == 0
    assert high.record.cache_bytes_peak == 2 * 2 * 4  # both at the hand-over, of 2 float32 each
