"""A denoiser whose arithmetic fits in the head, under an executor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_accel._diffusers import wrap_forward
from dit_accel.cache.block_range import BlockRange
from dit_accel.cache.executor import BlockRangeExecutor
from dit_accel.cache.policies import CachePolicy, DBCachePolicy, SchedulePolicy
from dit_accel.configs import DBCacheConfig
from dit_accel.run_record import RunRecord
from dit_accel.schedule import CacheSchedule
from dit_accel.specs import BlockSpec
from dit_accel.step_tracker import DenoiserCall


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

    def forward(self, flag: bool, text: Tensor | None, video: Tensor) -> tuple[Tensor | None, Tensor]:
        self.calls += 1
        return None if text is None else text + self.amount, video + 2 * self.amount


class Denoiser(nn.Module):
    """Blocks in a row."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class Bench:
    """Blocks under an executor, driven step by step as a pipeline would."""

    def __init__(
        self,
        blocks: list[nn.Module],
        compute: tuple[int, ...] | CachePolicy,
        *,
        num_steps: int = 4,
        streams: tuple[str, ...] = ("hidden_states",),
        video: str | None = None,
        probe: int = 0,
        corrector: int = 0,
        record: RunRecord | None = None,
        peers: list[BlockRangeExecutor] | None = None,
        name: str = "transformer",
        times: list[float] | None = None,
        head: Callable[[Tensor], Any] | None = None,
    ) -> None:
        """``compute`` is a policy, or a schedule's steps; with a ``head``, which makes the output, that is reused."""
        self.blocks, self.num_steps, self.name, self.head = blocks, num_steps, name, head
        self.record = record or RunRecord()
        self.times = torch.tensor(times or list(range(num_steps, 0, -1)))
        self.denoiser = Denoiser(blocks)
        spec = BlockSpec(("blocks",), streams, video=video)
        self.range = BlockRange.of(name, self.denoiser, spec, probe_blocks=probe, corrector_blocks=corrector)
        policy = SchedulePolicy(CacheSchedule(num_steps, compute)) if isinstance(compute, tuple) else compute
        self.executor = BlockRangeExecutor(
            policy, self.record, self.range, reuses_output=head is not None, peers=peers
        )
        for index, block in enumerate(blocks):
            wrap = functools.partial(
                self.executor.block_forward,
                self.executor._running,
                self.range,
                index,
                uses_probe=policy.uses_probe,
                reuses_output=head is not None,
            )
            wrap_forward(block, wrap)

    def begin(self, step: int, branch: str = "cond", trajectory: int = 0) -> None:
        self.executor.begin(
            DenoiserCall(
                self.name, branch, step, self.num_steps, trajectory, None if self.times is None else self.times.tolist
            )
        )

    def step(self, step: int, value: float | Tensor, branch: str = "cond", trajectory: int = 0) -> Any:
        """One forward: every block once, hidden states by position."""
        x = torch.full((1, 2), float(value)) if isinstance(value, (int, float)) else value
        with torch.no_grad():
            self.begin(step, branch, trajectory)
            return self.forward(x)

    def forward(self, x: Tensor) -> Any:
        """What the denoiser gives out once `begin` was called."""
        for block in self.blocks:
            x = block(x)
        output = self.head(x) if self.head else x
        replaced = self.executor.end(output)
        return output if replaced is None else replaced

    @property
    def calls(self) -> list[int]:
        return [block.calls for block in self.blocks]

    @property
    def stats(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        stats = self.record.stats()
        return stats.computed_steps.get(self.name, {}), stats.reused_steps.get(self.name, {})

    def kept(self, branch: str = "cond") -> list[Tensor]:
        """The first stream of every kept value of a branch, oldest first."""
        return [kept.tensors[0] for kept in self.executor._states[branch].kept]

    def held(self) -> list[Tensor]:
        states = (*self.executor._states.values(), self.executor._state)
        return [*(tensor for state in states for tensor in state.tensors), *self.executor._probe._anchors.values()]


def probe_bench(blocks: list[nn.Module], *, corrector: int = 0, num_steps: int = 8, **options: Any) -> Bench:
    """The first block probes. Nothing is forced unless asked for."""
    wanted = {"residual_diff_threshold": 0.1, "max_warmup_steps": 0, "always_compute_last": False}
    extras = {
        key: options.pop(key) for key in ("streams", "video", "record", "peers", "name", "times") & options.keys()
    }
    config = DBCacheConfig(corrector_blocks=corrector, **{**wanted, "max_continuous_cached_steps": None, **options})
    return Bench(blocks, DBCachePolicy(config), probe=1, corrector=corrector, num_steps=num_steps, **extras)


def equals(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all())


@pytest.fixture
def pair() -> tuple[Bench, Bench]:
    """Two denoisers of one pipeline, as in Wan 2.2; the second takes over midway."""
    record, peers = RunRecord(), []
    high = Bench([Add(10)], (0, 2), num_steps=8, record=record, peers=peers, name="transformer")
    low = Bench([Add(1000)], (0, 2), num_steps=8, record=record, peers=peers, name="transformer_2")
    return high, low
