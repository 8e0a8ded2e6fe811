"""Other caches of steps, each as a context manager that accelerates a pipeline and undoes it.

cache-dit, diffusers' own caches, TeaCache's rule, and LeMiCa as published. Each run starts from fresh state, since
each use enables anew. Needs ``pip install dit-accel[rivals]``.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig
from teacache import tea_polynomial, teacache

from dit_accel import CacheSchedule, ErrorGraph, LeMiCaConfig, enable_acceleration, plan

NUM_STEPS = 50
PROFILES = Path(__file__).parents[1] / "offline_profiles"
# cache-dit's default is 8; of 2, 4 and 8 these came nearest to the full run on the search prompts.
WARMUP_STEPS, TAYLOR_WARMUP_STEPS = 4, 2
# Lite mode is the one that skips blocks; diffusers' default patterns match no module of Wan.
TAYLORSEER_FIRST_STEPS = range(3, 9)
# cache-dit's four masks at 50 steps compute 38, 29, 20 and 14 of them.
MASKS = {14: "ultra", 20: "fast", 29: "medium", 38: "slow"}
# LeMiCa published no list of 10 steps for Wan 2.1.
PUBLISHED = {25: "slow", 20: "medium", 17: "fast", 14: "ultra"}

Accelerated = AbstractContextManager[Any]


@dataclass(frozen=True)
class Rival:
    """A method with one knob, whose value for a budget is tuned.

    ``enable(pipe, value)`` accelerates; ``setting`` is what else a row should tell; ``span`` is where the search for a
    threshold begins; ``is_data_free`` says that every video gets the same steps, so that one is enough to search.
    """

    name: str
    enable: Callable[[Any, Any], Accelerated]
    knob: str = "threshold"
    setting: Mapping[str, Any] = field(default_factory=dict)
    span: tuple[float, float] = (0.05, 0.2)
    is_data_free: bool = False

    def describe(self, value: Any) -> dict[str, Any]:
        """For the row: the value and the other knobs."""
        return {self.knob: value, **self.setting}


@dataclass(frozen=True)
class ExactRival(Rival):
    """A method whose steps are known beforehand: ``pick(budget)`` gives the knob, and nothing is searched."""

    pick: Callable[[int], Any] = lambda budget: budget


@contextlib.contextmanager
def cache_dit_dbcache(pipe: Any, threshold: float, *, has_taylor: bool) -> Iterator[None]:
    """cache-dit's DBCache F1B0."""
    warmup = TAYLOR_WARMUP_STEPS if has_taylor else WARMUP_STEPS
    with _cache_dit(pipe, has_taylor, residual_diff_threshold=threshold, max_warmup_steps=warmup):
        yield


@contextlib.contextmanager
def cache_dit_mask(pipe: Any, policy: str, *, has_taylor: bool) -> Iterator[None]:
    """One of cache-dit's masks: its steps are computed, and no other."""
    import cache_dit

    mask = cache_dit.steps_mask(mask_policy=policy, total_steps=NUM_STEPS)
    # A probe of one block still runs in the other steps, as cache-dit does in this mode.
    with _cache_dit(
        pipe, has_taylor, steps_computation_mask=mask, steps_computation_policy="static", max_warmup_steps=0
    ):
        yield


@contextlib.contextmanager
def _cache_dit(pipe: Any, has_taylor: bool, **options: Any) -> Iterator[None]:
    import cache_dit

    config = cache_dit.DBCacheConfig(
        num_inference_steps=NUM_STEPS, Fn_compute_blocks=1, Bn_compute_blocks=0, **options
    )
    forecast = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if has_taylor else None
    cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=forecast)
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


def sea_cache(pipe: Any, threshold: float, **knobs: Any) -> Accelerated:
    return diffusers_cache(pipe, SeaCacheConfig(threshold=threshold, **knobs))


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


def mag_ratios(pipe: Any, calibration_run: Callable[[], Any]) -> list[float]:
    """What diffusers' calibration prints for the first branch to finish, the conditional one."""
    printed = io.StringIO()
    config = MagCacheConfig(num_inference_steps=NUM_STEPS, calibrate=True)
    with diffusers_cache(pipe, config), contextlib.redirect_stdout(printed):
        calibration_run()
    lists = [line for line in printed.getvalue().splitlines() if line.startswith("[") and line.endswith("]")]
    ratios: list[float] = json.loads(lists[0])
    assert len(ratios) == NUM_STEPS
    return ratios


def held(pipe: Any, schedule: CacheSchedule) -> Accelerated:
    """The last computed residual at every other step, as LeMiCa's own code does."""
    return enable_acceleration(pipe, LeMiCaConfig(schedule, forecast="hold"))


def uniform(pipe: Any, budget: int) -> Accelerated:
    return held(pipe, CacheSchedule.uniform(NUM_STEPS, budget))


def lemica_of_paper(pipe: Any, budget: int) -> Accelerated:
    """Lexicographic minimax over this model's own graph, every edge measured with the held residual."""
    return held(pipe, plan(ErrorGraph.load(PROFILES / "digits-wan-hold" / "50-steps.graph.json"), budget))


def lemica_list(pipe: Any, name: str) -> Accelerated:
    """A list that LeMiCa's authors published, for a model of the same family."""
    return held(pipe, CacheSchedule.resolve(name))


def published_list(budget: int) -> str:
    """The published list of so many steps: Wan 2.1 T2V 1.3B, and for 10 of them HunyuanVideo 1.5."""
    return f"wan2.1-t2v-1.3b/lemica-{PUBLISHED[budget]}" if budget in PUBLISHED else "hunyuan-video-1.5/lemica-ultra"


def mask_for(budget: int) -> str:
    """The mask that computes the fewest steps from the budget upward."""
    return MASKS[min(steps for steps in MASKS if steps >= budget)]


def searched_rivals(pipe: Any, calibration_run: Callable[[], Any]) -> list[Rival]:
    """The rivals with a threshold; ``calibration_run`` makes a video that is not held out."""
    mag_knobs = {"max_skip_steps": 8, "retention_ratio": 0.2}  # nearer to the full run than fewer retained steps
    sea_knobs = {"residual_order": 1, "max_consecutive_cached": 0}
    polynomial = tea_polynomial(pipe, calibration_run)
    mag = partial(mag_cache, ratios=mag_ratios(pipe, calibration_run), **mag_knobs)
    return [
        Rival(
            "cache-dit DBCache F1B0",
            partial(cache_dit_dbcache, has_taylor=False),
            setting={"max_warmup_steps": WARMUP_STEPS},
        ),
        Rival(
            "cache-dit DBCache F1B0 TaylorSeer",
            partial(cache_dit_dbcache, has_taylor=True),
            setting={"max_warmup_steps": TAYLOR_WARMUP_STEPS, "taylorseer_order": 1},
        ),
        Rival("diffusers FirstBlockCache", first_block_cache),
        Rival("diffusers MagCache", mag, setting=mag_knobs, is_data_free=True),
        Rival("diffusers SeaCache", partial(sea_cache, **sea_knobs), setting=sea_knobs, span=(0.1, 0.4)),
        Rival(
            "TeaCache's rule",
            partial(teacache, rescale=polynomial),
            setting={"polynomial": [float(f"{c:.4g}") for c in polynomial.coef]},
            span=(0.02, 0.08),
        ),
    ]


def exact_rivals() -> list[ExactRival]:
    """The rivals whose number of steps is chosen."""
    taylor_setting = {"max_order": 1, "taylor_factors_dtype": "float32"}
    return [
        ExactRival("uniform", uniform, "steps"),
        ExactRival("LeMiCa as in its paper (exhaustive, held)", lemica_of_paper, "steps"),
        ExactRival("LeMiCa, published list", lemica_list, "schedule", pick=published_list),
        ExactRival(
            "diffusers TaylorSeerCache, lite",
            taylorseer_cache,
            "cache_interval, disable_cache_before_step",
            taylor_setting,
            pick=taylorseer_knobs,
        ),
        ExactRival("cache-dit mask", partial(cache_dit_mask, has_taylor=False), "mask_policy", pick=mask_for),
        ExactRival(
            "cache-dit mask TaylorSeer",
            partial(cache_dit_mask, has_taylor=True),
            "mask_policy",
            {"taylorseer_order": 1},
            pick=mask_for,
        ),
    ]
