"""Every test here that takes `lab` runs on every registered pipeline class, on the smallest real one of it."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dit_accel import enable_acceleration
from dit_accel._diffusers import denoisers_of, observe_calls
from dit_accel.api import Acceleration
from dit_accel.cache.block_range import BlockRange
from dit_accel.cache.executor import BlockRangeExecutor
from dit_accel.configs import DBCacheConfig, LeMiCaConfig
from dit_accel.registry import all_specs
from dit_accel.schedule import CacheSchedule
from dit_accel.sparse.layers import SparseLayer
from dit_accel.specs import PipelineSpec, TinyPipeline
from dit_accel.step_tracker import DenoiserCall, StepTracker

NUM_STEPS, SHORT = 6, 4
COMPUTE = (0, 3, 4)
REUSE = [step for step in range(NUM_STEPS) if step not in COMPUTE]
FOLDER: list[Path] = []
CLASSES = [(spec, name) for spec in all_specs() for name in spec.pipelines]
Calls = dict[str, dict[str, list[int]]]


@dataclass(eq=False)
class Lab:
    """A tiny pipeline, and the ways in which tests run it."""

    spec: PipelineSpec
    name: str
    pipe: DiffusionPipeline
    num_steps: int = NUM_STEPS
    _others: dict[str, tuple[Tensor, list[DenoiserCall]]] = field(default_factory=dict)

    @property
    def tiny(self) -> TinyPipeline:
        return self.spec.pipelines[self.name]

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        return denoisers_of(self.pipe, self.spec.denoisers)

    def ranges(self, probe: int = 0, corrector: int = 0) -> dict[str, BlockRange]:
        """The block range of every denoiser."""
        return {
            name: BlockRange.of(name, d, self.spec.denoisers[name], probe_blocks=probe, corrector_blocks=corrector)
            for name, d in self.denoisers.items()
        }

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for found in self.ranges().values() for block in found.blocks]

    def run(self, *, seed: int = 0, **changes: Any) -> Tensor:
        """What the pipeline makes, latents where it can."""
        inputs = {"output_type": "latent", **self.tiny.inputs(), **self.tiny.steps(self.num_steps), **changes}
        generator = torch.Generator().manual_seed(seed)
        output = self.pipe(generator=generator, return_dict=False, **inputs)
        while isinstance(output, (tuple, list)):
            output = output[0]
        return output if isinstance(output, Tensor) else torch.as_tensor(np.asarray(output))

    @functools.cached_property
    def full(self) -> Tensor:
        """The output of the run that nothing accelerates."""
        return self.run()

    @functools.cached_property
    def calls(self) -> list[DenoiserCall]:
        """Every denoiser call of a run that is to be accelerated."""
        output, calls = self._observed()
        if not self.is_accelerated:
            self.__dict__.setdefault("full", output)
        return calls

    def other(self, label: str) -> tuple[Tensor, list[DenoiserCall]]:
        """What another kind of call makes when nothing accelerates it, and its denoiser calls; found once."""
        if label not in self._others:
            assert not self.is_accelerated
            self._others[label] = self._observed(**self.tiny.variations[label])
        return self._others[label]

    @functools.cached_property
    def reused(self) -> Tensor:
        """The output of the run with the usual schedule."""
        with self.enable():
            return self.run()

    @functools.cached_property
    def short(self) -> Lab:
        """The same pipeline with fewer steps, for what takes long and is the same in every step."""
        return Lab(self.spec, self.name, self.pipe, SHORT)

    @property
    def is_accelerated(self) -> bool:
        return any(hasattr(denoiser, "_dit_accel_acceleration") for denoiser in self.denoisers.values())

    def _observed(self, **changes: Any) -> tuple[Tensor, list[DenoiserCall]]:
        notes = Notes()
        tracker = StepTracker(self.pipe)
        undo = [
            observe_calls(name, d, tracker, notes, self.spec.denoisers[name].compute_when)
            for name, d in self.denoisers.items()
        ]
        output = self.run(**changes)
        for remove in undo:
            remove()
        return output, [call for call in notes.calls if call is not None]

    def schedule(self, compute: tuple[int, ...] = COMPUTE, **options: Any) -> LeMiCaConfig:
        """A schedule for the run's number of steps, with ``compute`` where they exist."""
        num_steps = self.calls[-1].num_steps
        return LeMiCaConfig(CacheSchedule(num_steps, tuple(k for k in compute if k < num_steps)), **options)

    def enable(self, compute: tuple[int, ...] = COMPUTE) -> Acceleration:
        return enable_acceleration(self.pipe, self.schedule(compute))

    def enable_all_compute(self) -> Acceleration:
        return self.enable(tuple(range(self.num_steps)))

    def enable_dbcache(self, **options: Any) -> Acceleration:
        """The probe decides, with a threshold that nothing reaches and the last step free unless told otherwise."""
        loose = {"residual_diff_threshold": 1e9, "max_warmup_steps": 1, "max_continuous_cached_steps": 2}
        return enable_acceleration(self.pipe, DBCacheConfig(**{**loose, "always_compute_last": False, **options}))

    def another(self) -> Lab:
        """The same weights in a pipeline of its own, whose calls are the same too."""
        fresh = make_lab(self.spec, self.name)
        fresh.__dict__["calls"] = self.calls
        return fresh

    @property
    def larger(self) -> dict[str, Any]:
        """Call arguments for another resolution."""
        return dict(self.tiny.variations["another size"])

    def assert_follows(
        self, acceleration: Acceleration, compute: tuple[int, ...] = COMPUTE, calls: list[DenoiserCall] | None = None
    ) -> None:
        """Every branch of every denoiser computed and reused exactly the schedule's steps."""
        calls = self.calls if calls is None else calls
        stats = acceleration.stats
        computed, reused = expected_steps(calls, compute)
        assert stats.num_steps == calls[-1].num_steps
        assert (stats.computed_steps, stats.reused_steps) == (computed, reused)


def expected_steps(calls: list[DenoiserCall], compute: tuple[int, ...]) -> tuple[Calls, Calls]:
    """What a schedule asks of the last trajectory: a denoiser's first step can only be computed."""
    last = [call for call in calls if call.trajectory == calls[-1].trajectory]
    opening: dict[str, int] = {}
    computed: Calls = defaultdict(lambda: defaultdict(list))
    reused: Calls = defaultdict(lambda: defaultdict(list))
    for call in last:
        first = opening.setdefault(call.denoiser, call.step)
        kind = computed if call.step in compute or call.step == first else reused
        kind[call.denoiser][call.branch].append(call.step)
    return computed, reused


class Notes:
    """An observer that writes down the calls."""

    def __init__(self) -> None:
        self.calls: list[DenoiserCall | None] = []

    def begin(self, call: DenoiserCall | None) -> None:
        self.calls.append(call)

    def end(self, output: Any) -> None:
        pass


def make_lab(spec: PipelineSpec, name: str) -> Lab:
    pipe = spec.pipelines[name].build()
    pipe.set_progress_bar_config(disable=True)
    return Lab(spec, name, pipe)


class BlockCalls:
    """Counts how often the inside of a block really runs, by a hook on a layer in it that every call passes once."""

    def __init__(self, block: nn.Module) -> None:
        self.count = 0
        self.layer = next(layer for layer in block.modules() if isinstance(layer, nn.Linear))
        self.remove = self.layer.register_forward_hook(self.note).remove

    def note(self, *_: Any) -> None:
        self.count += 1


# Building takes longer than a run, and a test that disables restores the pipeline exactly: the first test of the
# contract proves it for each. The worker builds each once.
_kept_lab = functools.cache(make_lab)


@pytest.fixture(params=CLASSES, ids=lambda pair: pair[1].rsplit(".", 1)[1])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    found = _kept_lab(*request.param)
    yield found
    for denoiser in found.denoisers.values():  # a test that failed half-way must not fail the next one
        if hasattr(denoiser, "_dit_accel_acceleration"):
            denoiser._dit_accel_acceleration.disable()


@pytest.fixture
def wan() -> Lab:
    """A `WanPipeline` of its own, for what need not be tried on every class."""
    return make_lab(*next(pair for pair in CLASSES if pair[1].endswith(".WanPipeline")))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[None]:
    FOLDER.append(tmp_path)
    yield
    FOLDER.clear()


@pytest.fixture
def fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[BlockRangeExecutor]:
    """The executors that `enable_acceleration` makes during the test."""
    from dit_accel.cache import install

    made: list[BlockRangeExecutor] = []

    class Noted(BlockRangeExecutor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(install, "BlockRangeExecutor", Noted)
    return made


@pytest.fixture
def sparse_layers(monkeypatch: pytest.MonkeyPatch) -> list[SparseLayer]:
    """The layers of sparse attention that `enable_acceleration` makes during the test."""
    from dit_accel.sparse import install

    made: list[SparseLayer] = []

    class Noted(SparseLayer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(install, "SparseLayer", Noted)
    return made


def held(executors: list[BlockRangeExecutor]) -> list[Tensor]:
    """Every tensor that the executors hold."""
    states = [state for e in executors for state in (*e._states.values(), e._state)]
    anchors = [anchor for e in executors for anchor in e._probe._anchors.values()]
    return [*(tensor for state in states for tensor in state.tensors), *anchors]


def attributes(lab: Lab) -> dict[str, Any]:
    """Names of all instance attributes of the pipeline and its modules, and how many hooks hang on each module."""
    found: dict[str, Any] = {"": sorted(vars(lab.pipe))}
    for name, component in lab.pipe.components.items():
        for path, module in component.named_modules() if isinstance(component, nn.Module) else ():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
            found[f"{name}.{path}"] = (sorted(vars(module)), hooks)
    return found


def assert_gone(lab: Lab, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor) -> None:
    """The pipeline does as ever and none of its calls comes near the executor any more."""

    def fail(*_: Any) -> None:
        raise AssertionError("the executor is still in the chain")

    with monkeypatch.context() as patch:
        # All its methods read this first. To patch them would miss the bound ones that a wrapper holds.
        patch.setattr(BlockRangeExecutor, "_call", property(fail, fail), raising=False)
        assert lab.run().equal(expected)
