"""What a reuse is made of: forecasts through several residuals, the denoiser's output, and ranges cut by a guider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, LayerSkipConfig, apply_layer_skip
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.utils import BaseOutput
from torch import Tensor

from dit_accel.cache.policies import SchedulePolicy
from dit_accel.schedule import CacheSchedule

from .conftest import Add, Bench, equals, probe_bench

# Forecasts: blocks add a function of the model time, which falls unevenly


def forecast_bench(forecast: str, compute: tuple[int, ...], times: list[float]) -> Bench:
    policy = SchedulePolicy(CacheSchedule(len(times), compute), forecast)
    return Bench([Add(0)], policy, num_steps=len(times), times=times)


def outputs(bench: Bench, amount: Callable[[float], float]) -> list[float]:
    """What comes out at every step when 100 goes in."""
    found = []
    for step, time in enumerate(bench.times.tolist()):
        bench.blocks[0].amount = amount(time)
        found.append(float(bench.step(step, 100)[0, 0]))
    return found


def test_taylor1_is_exact_on_a_linear_residual():
    times = [10.0, 8.0, 5.0, 4.0]
    bench = forecast_bench("taylor1", (0, 1), times)
    assert outputs(bench, lambda t: 3 * t) == [100 + 3 * t for t in times]
    assert bench.calls == [2]


def test_taylor2_is_exact_on_a_quadratic_residual_and_taylor1_is_not():
    times = [8.0, 6.0, 5.0, 1.0]
    expected = [100 + t * t for t in times]
    assert outputs(forecast_bench("taylor2", (0, 1, 2), times), lambda t: t * t) == pytest.approx(expected, abs=1e-4)
    assert outputs(forecast_bench("taylor1", (0, 1, 2), times), lambda t: t * t)[3] == 100 + 25 - 4 * 11


def test_with_one_residual_so_far_it_is_held():
    assert outputs(forecast_bench("taylor2", (0, 2), [4.0, 3.0, 2.0, 1.0]), lambda t: t)[1] == 100 + 4


def test_the_newest_residuals_are_used_and_their_buffers_go_round():
    times = [9.0, 8.0, 7.0, 6.0, 5.0]
    bench = forecast_bench("taylor1", (0, 1, 3), times)
    seen = []
    for step, time in enumerate(times):
        bench.blocks[0].amount = time if time > 7 else 2 * time
        seen.append(float(bench.step(step, 0)[0, 0]))
    assert seen == [9, 8, 7, 12, 12 + (12 - 8) / 2]
    assert bench.record.cache_bytes_peak == 2 * 2 * 4


@pytest.mark.parametrize(("forecast", "num_values"), [("hold", 1), ("taylor1", 2), ("taylor2", 3)])
def test_each_order_keeps_one_residual_more_in_buffers_of_its_own(forecast, num_values):
    bench = probe_bench([Add(8), Add(20)], forecast=forecast, compute_steps=list(range(6)))
    for step in range(6):
        bench.blocks[1].amount = step
        bench.step(step, 1)
        assert [float(kept[0, 0]) for kept in bench.kept()] == list(range(step + 1))[-num_values:]
    assert bench.record.cache_bytes_peak == (num_values + 1) * 2 * 4  # and what the probe compares with


# The denoiser's output


@dataclass
class Output(BaseOutput):
    """As the denoisers of diffusers have."""

    sample: Tensor
    extra: Tensor | None = None


HEADS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: 2 * x,
    "tuple": lambda x: (2 * x,),
    "list in a tuple": lambda x: ([2 * x, 3 * x], "label", None),
    "output class": lambda x: Output(sample=2 * x),
    "output class with two": lambda x: Output(sample=2 * x, extra=3 * x),
}


def plain(output: Any) -> Any:
    """The output with numbers for tensors and the types of the containers told."""
    if isinstance(output, Tensor):
        return float(output[0, 0])
    if isinstance(output, BaseOutput):
        return [type(output), {key: plain(value) for key, value in output.items()}]
    return [type(output), *map(plain, output)] if isinstance(output, (tuple, list)) else output


@pytest.mark.parametrize("kind", HEADS)
def test_the_output_itself_is_reused_in_its_own_form(kind):
    head = HEADS[kind]
    bench = Bench([Add(10), Add(20)], (0, 2), head=head)
    found = [plain(bench.step(step, value)) for step, value in enumerate([1, 50, 2, 60])]
    first, second = plain(head(torch.full((1, 2), 31.0))), plain(head(torch.full((1, 2), 32.0)))
    assert found == [first, first, second, second]
    assert bench.calls == [2, 2]
    assert bench.held() == []


def test_outputs_are_forecast_too():
    times = [10.0, 8.0, 5.0]
    policy = SchedulePolicy(CacheSchedule(3, (0, 1)), "taylor1")
    bench = Bench([Add(0)], policy, num_steps=3, times=times, head=lambda x: (x,))
    for step, time in enumerate(times):
        bench.blocks[0].amount = time
        (out,) = bench.step(step, 0)
    assert equals(out, 5)


@pytest.mark.parametrize("head", [None, lambda x: (x,)])
def test_a_reuse_step_that_computes_after_all_replaces_what_is_kept(head):
    """A branch that joins first has nothing to reuse, so that the whole step is computed."""
    bench = Bench([Add(10)], (0,), head=head)
    bench.step(0, 0)
    bench.step(1, 0, "new")
    bench.blocks[0].amount = 70
    bench.step(1, 0)
    assert len(bench.kept()) == 1
    out = bench.step(2, 0)
    assert equals(out[0] if head else out, 70)


def test_a_change_of_the_computed_output_does_not_get_into_what_is_kept():
    bench = Bench([Add(10)], (0,), head=lambda x: (x,))
    bench.step(0, 1)[0].add_(1000)  # guidance in place
    assert equals(bench.step(1, 5)[0], 11)


def test_a_change_of_a_reused_output_does_not_get_into_what_is_kept():
    bench = Bench([Add(10)], (0,), head=lambda x: (x,))
    bench.step(0, 1)
    bench.step(1, 5)[0].add_(1000)
    assert equals(bench.step(2, 5)[0], 11)


def test_outputs_take_the_bytes_of_the_output():
    bench = Bench([Add(10)], (0,), head=lambda x: (x[:, :1],))
    bench.step(0, 1)
    assert bench.record.cache_bytes == 4


# Skip-layer guidance: blocks that one branch does not run. The numbers tell which have.

BLOCKS = (1, 10, 20, 40, 1000)  # probe, three cached, corrector


@pytest.fixture
def skipping(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bench, list[int]], Callable[[], None]]:
    """Has blocks skipped as diffusers' guiders do; returns the way back."""
    known = {
        **TransformerBlockRegistry._registry,
        Add: TransformerBlockMetadata(return_hidden_states_index=0, _cls=Add),
    }
    TransformerBlockRegistry._register()
    monkeypatch.setattr(TransformerBlockRegistry, "_registry", {**TransformerBlockRegistry._registry, **known})

    def skip(bench: Bench, indices: list[int]) -> Callable[[], None]:
        apply_layer_skip(bench.denoiser, LayerSkipConfig(indices, fqn="blocks"))

        def undo() -> None:
            for index in indices:
                HookRegistry.check_if_exists_or_initialize(bench.blocks[index]).remove_hook("layer_skip_hook")

        return undo

    return skip


@pytest.mark.parametrize("skipped", [[1], [2], [3], [1, 2], [2, 3], [1, 3]])
def test_a_branch_without_some_of_the_cached_blocks_is_reused_without_them(skipping, skipped):
    bench = probe_bench([Add(amount) for amount in BLOCKS], corrector=1)
    missing = sum(BLOCKS[index] for index in skipped)
    for step, value in enumerate([0, 5, 7]):
        moved = step / 32
        bench.blocks[0].amount = 1 + moved
        assert equals(bench.step(step, value, "cond"), value + sum(BLOCKS) + moved)
        undo = skipping(bench, skipped)
        assert equals(bench.step(step, value, "skip"), value + sum(BLOCKS) + moved - missing)
        undo()
    assert bench.stats == ({"cond": [0], "skip": [0]}, {"cond": [1, 2], "skip": [1, 2]})
    assert bench.calls == [6, *(1 if index in skipped else 2 for index in (1, 2, 3)), 6]


def test_a_branch_without_any_of_the_cached_blocks_just_runs_the_others(skipping):
    bench = probe_bench([Add(amount) for amount in BLOCKS], corrector=1)
    for step, value in enumerate([0, 5]):
        assert equals(bench.step(step, value, "cond"), value + sum(BLOCKS))
        undo = skipping(bench, [1, 2, 3])
        assert equals(bench.step(step, value, "skip"), value + 1001)
        undo()
    assert bench.stats[1] == {"cond": [1]}


@pytest.mark.parametrize("skipped", [[0], [4], [0, 4]])
def test_a_whole_stack_is_cached_between_the_blocks_that_run(skipping, skipped):
    bench = Bench([Add(amount) for amount in BLOCKS], (0,))
    skipping(bench, skipped)
    less = sum(BLOCKS) - sum(BLOCKS[index] for index in skipped)
    assert [float(bench.step(step, value)[0, 0]) for step, value in enumerate([0, 5])] == [less, 5 + less]
    assert bench.stats == ({"cond": [0]}, {"cond": [1]})
    assert bench.calls == [int(index not in skipped) for index in range(5)]
