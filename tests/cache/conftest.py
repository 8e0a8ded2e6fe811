"""A denoiser whose arithmetic fits in the head, under an executor."""

from __future__ import annotations

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


@pytest.fixture
def pair() -> tuple[Bench, Bench]:
    """Two denoisers of one pipeline, as in Wan 2.2; the second takes over midway."""
    record, peers = RunRecord(), []
    high = Bench([Add(10)], (0, 2), num_steps=8, record=record, peers=peers, name="transformer")
    low = Bench([Add(1000)], (0, 2), num_steps=8, record=record, peers=peers, name="transformer_2")
    return high, low
