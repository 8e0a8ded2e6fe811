"""Every test here runs on every registered family, on the smallest real pipeline that its specification builds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dit_accel import enable_acceleration
from dit_accel._diffusers import denoisers_of, find_blocks
from dit_accel.api import Acceleration
from dit_accel.cache.executor import BlockRangeExecutor
from dit_accel.configs import LeMiCaConfig
from dit_accel.registry import all_specs
from dit_accel.schedule import CacheSchedule
from dit_accel.specs import PipelineSpec

NUM_STEPS = 8
COMPUTE = (0, 3, 4)
REUSE = [step for step in range(NUM_STEPS) if step not in COMPUTE]
FOLDER: list[Path] = []


@dataclass(frozen=True)
class Lab:
    """A tiny pipeline of a family, and the ways in which tests run it."""

    spec: PipelineSpec
    pipe: DiffusionPipeline

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        return denoisers_of(self.pipe, self.spec.denoisers)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for name, d in self.denoisers.items() for block in find_blocks(name, d, self.spec.blocks)]

    def run(self, *, seed: int = 0, steps: int = NUM_STEPS, **changes: Any) -> Tensor:
        """The final latents."""
        inputs = {"prompt": "a red seven spinning on navy", **self.spec.tiny_inputs, **changes}
        generator = torch.Generator().manual_seed(seed)
        output = self.pipe(
            num_inference_steps=steps, generator=generator, output_type="latent", return_dict=False, **inputs
        )
        return output[0]

    def enable(self, compute: tuple[int, ...] = COMPUTE) -> Acceleration:
        return enable_acceleration(self.pipe, LeMiCaConfig(CacheSchedule(NUM_STEPS, compute)))

    def enable_all_compute(self) -> Acceleration:
        return self.enable(tuple(range(NUM_STEPS)))

    def another(self) -> Lab:
        """The same weights in a pipeline of its own."""
        return make_lab(self.spec)

    @property
    def larger(self) -> dict[str, int]:
        """Call arguments for another resolution."""
        return {"height": 2 * self.spec.tiny_inputs["height"]}

    def assert_follows(self, acceleration: Acceleration, compute: tuple[int, ...] = COMPUTE) -> None:
        """Every branch of every denoiser computed and reused exactly the schedule's steps."""
        stats = acceleration.stats
        assert stats.num_steps == NUM_STEPS
        assert set(stats.computed_steps) == set(self.denoisers)
        reused = [step for step in range(NUM_STEPS) if step not in compute]
        for name, branches in stats.computed_steps.items():
            assert branches
            for branch, steps in branches.items():
                assert steps == list(compute)
                assert stats.reused_steps.get(name, {}).get(branch, []) == reused


def make_lab(spec: PipelineSpec) -> Lab:
    pipe = spec.tiny()
    pipe.set_progress_bar_config(disable=True)
    return Lab(spec, pipe)


class BlockCalls:
    """Counts how often the inside of a block really runs, by a hook on a layer in it that every call passes once."""

    def __init__(self, block: nn.Module) -> None:
        self.count = 0
        self.layer = next(layer for layer in block.modules() if isinstance(layer, nn.Linear))
        self.layer.register_forward_hook(self.note)

    def note(self, *_: Any) -> None:
        self.count += 1


@pytest.fixture(params=all_specs(), ids=lambda spec: spec.family)
def lab(request: pytest.FixtureRequest) -> Lab:
    return make_lab(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[None]:
    FOLDER.append(tmp_path)
    yield
    FOLDER.clear()


@pytest.fixture
def fresh_compiler() -> None:
    torch._dynamo.reset()


def assert_gone(lab: Lab, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor) -> None:
    """The pipeline does as ever and none of its calls comes near the executor any more."""

    def fail(*_: Any) -> None:
        raise AssertionError("the executor is still in the chain")

    with monkeypatch.context() as patch:
        # All its methods read this first. To patch them would miss the bound ones that a wrapper holds.
        patch.setattr(BlockRangeExecutor, "_call", property(fail, fail), raising=False)
        assert lab.run().equal(expected)
