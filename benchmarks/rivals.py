"""Other caches of steps, each as a context manager that accelerates a pipeline and undoes it.

cache-dit, diffusers' own caches, and TeaCache's rule. Each run starts from fresh state, since each use enables anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from torch import Tensor

NUM_STEPS = 50
ROUNDS, NEAR_STEPS = 6, 0.25
LEAST_THRESHOLD, MOST_THRESHOLD = 1e-4, 10.0
# cache-dit's default is 8; of 2, 4 and 8 these came nearest to the full run on the search prompts.
WARMUP_STEPS, TAYLOR_WARMUP_STEPS = 4, 2
# Lite mode is the one that skips blocks; diffusers' default patterns match no module of Wan.
TAYLORSEER_FIRST_STEPS = range(3, 9)

Accelerated = AbstractContextManager[None]
Profile = Callable[[], Any]


@dataclass(frozen=True)
class Rival:
    """A method with one searched knob.

    ``enable(pipe, value)`` accelerates; ``setting`` is what else a row should tell; ``span`` is where the search for a
    threshold begins; ``is_data_free`` says that every video gets the same steps, so that one is enough to search.
    """

    name: str
    enable: Callable[[Any, Any], Accelerated]
    knob: str
    setting: dict[str, Any] = field(default_factory=dict)
    span: tuple[float, float] = (0.05, 0.2)
    is_data_free: bool = False

    def choose(self, budget: int, steps_at: Callable[[Any], float], known: dict[Any, float]) -> Any:
        """The value that computes at least ``budget`` steps, as few as possible; ``known`` is kept between budgets.

        Bisection on a logarithmic scale, steps interpolated between the ends of the bracket. If no value gets down to
        the budget, the one that comes nearest.
        """
        low, high = self.span
        while self._steps(low, steps_at, known) < budget and low > LEAST_THRESHOLD:
            low /= 2
        while self._steps(high, steps_at, known) >= budget and high < MOST_THRESHOLD:
            high *= 4
        for _ in range(ROUNDS):
            high = min((t for t, steps in known.items() if steps < budget), default=math.inf)
            low = max(t for t, steps in known.items() if steps >= budget and t < high)
            if high == math.inf or known[low] <= budget + NEAR_STEPS:
                break
            share = min(max((known[low] - budget) / (known[low] - known[high]), 0.2), 0.8)
            self._steps(low * (high / low) ** share, steps_at, known)
        return min((t for t in known if known[t] >= budget), key=lambda t: (known[t], t))

    def _steps(self, threshold: float, steps_at: Callable[[Any], float], known: dict[Any, float]) -> float:
        if threshold not in known:
            known[threshold] = steps_at(threshold)
        return known[threshold]

    def describe(self, value: Any) -> dict[str, Any]:
        """For the row: the value found and the other knobs."""
        return {self.knob: round(value, 5), **self.setting}


@dataclass(frozen=True)
class ExactRival(Rival):
    """A method whose steps are known beforehand: ``pick(budget)`` gives the knobs, and nothing is searched."""

    pick: Callable[[int], Any] = lambda budget: budget

    def choose(self, budget: int, steps_at: Callable[[Any], float], known: dict[Any, float]) -> Any:
        """The knobs of the budget."""
        return self.pick(budget)

    def describe(self, value: Any) -> dict[str, Any]:
        """For the row: the knobs."""
        return {self.knob: Path(value).name if isinstance(value, str) else value, **self.setting}


@contextlib.contextmanager
def cache_dit_dbcache(pipe: Any, threshold: float, *, has_taylor: bool) -> Iterator[None]:
    """cache-dit's DBCache F1B0."""
    import cache_dit

    cache_dit.enable_cache(
        pipe,
        cache_config=cache_dit.DBCacheConfig(
            num_inference_steps=NUM_STEPS,
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            residual_diff_threshold=threshold,
            max_warmup_steps=TAYLOR_WARMUP_STEPS if has_taylor else WARMUP_STEPS,
        ),
        calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if has_taylor else None,
    )
    try:
        yield
    finally:
        cache_dit.disable_cache(pipe)


@contextlib.contextmanager
def diffusers_cache(pipe: Any, config: Any) -> Iterator[None]:
    """One of diffusers' own caches."""
    pipe.transformer.enable_cache(config)
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


def first_block_cache(pipe: Any, threshold: float) -> Accelerated:
    return diffusers_cache(pipe, FirstBlockCacheConfig(threshold=threshold))


def taylorseer_cache(pipe: Any, interval_and_first: tuple[int, int]) -> Accelerated:
    interval, first = interval_and_first
    config = TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=first,
        use_lite_mode=True,
        taylor_factors_dtype=torch.float32,
    )
    return diffusers_cache(pipe, config)


def taylorseer_knobs(budget: int) -> tuple[int, int]:
    """The interval, and the first step that may be cached, that compute the fewest steps from the budget upward.

    diffusers computes the first steps, and then each step that is one more than a multiple of the interval after them.
    """

    def computed(knobs: tuple[int, int]) -> int:
        interval, first = knobs
        return sum(step < first or (step - first - 1) % interval == 0 for step in range(NUM_STEPS))

    found = [(interval, first) for interval in range(1, NUM_STEPS) for first in TAYLORSEER_FIRST_STEPS]
    return min((knobs for knobs in found if computed(knobs) >= budget), key=lambda knobs: (computed(knobs), knobs))


def mag_cache(pipe: Any, threshold: float, *, ratios: list[float], **knobs: Any) -> Accelerated:
    config = MagCacheConfig(threshold=threshold, num_inference_steps=NUM_STEPS, mag_ratios=ratios, **knobs)
    return diffusers_cache(pipe, config)


def mag_ratios(pipe: Any, profile: Profile) -> list[float]:
    """What diffusers' calibration prints for the first branch to finish, the conditional one."""
    printed = io.StringIO()
    config = MagCacheConfig(num_inference_steps=NUM_STEPS, calibrate=True)
    with diffusers_cache(pipe, config), contextlib.redirect_stdout(printed):
        profile()
    lists = [line for line in printed.getvalue().splitlines() if line.startswith("[") and line.endswith("]")]
    ratios: list[float] = json.loads(lists[0])
    assert len(ratios) == NUM_STEPS
    return ratios


class TeaCache:
    """TeaCache's rule: the change of the first block's modulated input, rescaled, adds up until it is too much.

    The first and the last step are computed. A reuse adds the residual that the branch had when it was computed last.
    The branches come in turns: a call with even number is conditional.
    """

    def __init__(self, transformer: Any, threshold: float, rescale: Callable[[float], float]) -> None:
        self.transformer, self.threshold, self.rescale = transformer, threshold, rescale
        self.calls = 0
        self.branches: list[dict[str, Any]] = [{"total": 0.0}, {"total": 0.0}]
        self.branch = self.branches[0]

    def decide(self, hidden: Tensor, temb: Tensor) -> bool:
        """Whether this call reuses."""
        step, self.branch = self.calls // 2, self.branches[self.calls % 2]
        self.calls += 1
        signal, previous = tea_signal(self.transformer.blocks[0], hidden, temb), self.branch.get("signal")
        self.branch["signal"] = signal
        if step in (0, NUM_STEPS - 1):
            is_reuse = False
        else:
            self.branch["total"] += self.rescale(relative_change(signal, previous))
            is_reuse = self.branch["total"] < self.threshold
        if not is_reuse:
            self.branch["total"] = 0.0
        return is_reuse

    def forward(self, index: int, original: Any, hidden: Tensor, encoder: Tensor, temb: Tensor, rotary: Any) -> Tensor:
        """In place of a block's forward."""
        if index == 0:
            self.is_reuse = self.decide(hidden, temb)
            self.branch["entry"] = hidden
            if self.is_reuse:
                return hidden + self.branch["residual"]
        if self.is_reuse:
            return hidden
        output: Tensor = original(hidden, encoder, temb, rotary)
        if index == len(self.transformer.blocks) - 1:
            self.branch["residual"] = output - self.branch["entry"]
        return output


@contextlib.contextmanager
def teacache(pipe: Any, threshold: float, *, rescale: Callable[[float], float]) -> Iterator[None]:
    """TeaCache's rule on a Wan transformer."""
    rule = TeaCache(pipe.transformer, threshold, rescale)
    with contextlib.ExitStack() as undo:
        for index, block in enumerate(pipe.transformer.blocks):
            if "forward" in block.__dict__:  # diffusers' hooks leave one
                undo.callback(setattr, block, "forward", block.forward)
            else:
                undo.callback(delattr, block, "forward")
            block.forward = partial(rule.forward, index, block.forward)
        yield


def tea_signal(block: Any, hidden: Tensor, temb: Tensor) -> Tensor:
    """The first block's input after norm and modulation by the timestep."""
    shift, scale = (block.scale_shift_table + temb.float()).chunk(6, dim=1)[:2]
    return block.norm1(hidden.float()) * (1 + scale) + shift


def relative_change(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


def tea_polynomial(pipe: Any, profile: Profile) -> np.poly1d:
    """Degree 4: from the signal's change between two steps to the output's, on a full run."""
    signals: list[Tensor] = []
    outputs: list[Tensor] = []
    transformer = pipe.transformer
    handles = [
        transformer.blocks[0].register_forward_pre_hook(
            lambda block, args: signals.append(tea_signal(block, args[0], args[2]))
        ),
        transformer.register_forward_hook(lambda module, args, output: outputs.append(output[0])),
    ]
    try:
        profile()
    finally:
        for handle in handles:
            handle.remove()
    x, y = ([relative_change(b, a) for a, b in zip(seen, seen[2:], strict=False)] for seen in (signals, outputs))
    return np.poly1d(np.polyfit(x, y, 4))


def all_rivals(pipe: Any, profile: Profile) -> list[Rival]:
    """Every rival; ``profile`` makes a video that is not held out, for those that calibrate."""
    ratios = mag_ratios(pipe, profile)
    knobs = {"max_skip_steps": 8, "retention_ratio": 0.2}  # nearer to the full run than fewer retained steps
    defaults = {"max_skip_steps": 3, "retention_ratio": 0.2}
    mag = partial(Rival, knob="threshold", is_data_free=True)
    polynomial = tea_polynomial(pipe, profile)
    return [
        Rival(
            "cache-dit DBCache F1B0",
            partial(cache_dit_dbcache, has_taylor=False),
            "threshold",
            {"max_warmup_steps": WARMUP_STEPS},
        ),
        Rival(
            "cache-dit DBCache F1B0 TaylorSeer",
            partial(cache_dit_dbcache, has_taylor=True),
            "threshold",
            {"max_warmup_steps": TAYLOR_WARMUP_STEPS, "taylorseer_order": 1},
        ),
        Rival("diffusers FirstBlockCache", first_block_cache, "threshold"),
        mag("diffusers MagCache", partial(mag_cache, ratios=ratios, **knobs), setting=knobs),
        mag("diffusers MagCache, defaults", partial(mag_cache, ratios=ratios), setting=defaults),
        ExactRival(
            "diffusers TaylorSeerCache, lite",
            taylorseer_cache,
            "cache_interval, disable_cache_before_step",
            {"max_order": 1, "taylor_factors_dtype": "float32"},
            pick=taylorseer_knobs,
        ),
        Rival(
            "TeaCache's rule",
            partial(teacache, rescale=polynomial),
            "threshold",
            {"polynomial": [float(f"{c:.4g}") for c in polynomial.coef]},
            span=(0.02, 0.08),
        ),
    ]
