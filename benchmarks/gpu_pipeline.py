"""The caches in the GPU suite: what they cost in a call, how much memory methods take, when the host must wait."""

from __future__ import annotations

import functools
import itertools
import statistics
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from cache_overhead import HandWritten
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from gpu_attention import Warm, setup, sizes
from gpu_clock import CACHE_BYTES, ratios, spread
from gpu_parts import QUESTION, Suite, attempt, not_measured
from torch import Tensor

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config, enable_acceleration
from dit_accel.errors import BackendUnavailableError
from dit_accel.rows import Row
from dit_accel.sparse.backends import load_backend
from dit_accel.timed_run import TimedRun, timed_run

# Heads of 128 channels and width of the feed-forward layers: those of the published models, and a tiny one.
WIDTHS = {"Wan 2.1 1.3B": (12, 8960), "Wan 2.1 14B": (40, 13824), "tiny": (2, 512)}
TEXT_WIDTH, TEXT_TOKENS = 4096, 512
STEPS_OF_SCHEDULE = 10_000  # more than are timed: computed and reused steps alternate
OVERHEAD_BLOCKS, OVERHEAD_LATENTS = 4, ((5, 32, 32), (21, 60, 104))  # frames, height, width: 1280 and 32,760 tokens
# Model, blocks, height, width and frames of the video, steps. 81 frames at 480p are 32,760 tokens.
MEMORY_RUNS = (("tiny", 4, 128, 128, 17, 6), ("Wan 2.1 1.3B", 30, 480, 832, 81, 6))
SMOKE_RUNS = (("tiny", 2, 32, 32, 5, 4),)
SYNC_WARNING = "called a synchronizing"
FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # as diffusers loads this model


def build(suite: Suite, model: str, blocks: int) -> WanTransformer3DModel:
    """A Wan transformer of the width of ``model`` with random weights, the same at each call."""
    heads, ffn_dim = WIDTHS[model]
    torch.manual_seed(0)
    with torch.device(suite.device):
        built = WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=32 if suite.is_smoke else 128,
            ffn_dim=ffn_dim,
            num_layers=blocks,
            text_dim=64 if suite.is_smoke else TEXT_WIDTH,
        )
    for name, parameter in built.named_parameters():
        if not any(part in FLOAT32 for part in name.split(".")):
            parameter.data = parameter.data.to(suite.dtype)
    return built.eval().requires_grad_(False)


def width_of(model: WanTransformer3DModel) -> int:
    """Channels of a token."""
    return int(model.config.num_attention_heads * model.config.attention_head_dim)


def text(suite: Suite) -> Tensor:
    """An embedded prompt."""
    shape = (1, 8, 64) if suite.is_smoke else (1, TEXT_TOKENS, TEXT_WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(suite.device, suite.dtype)


def pipeline(model: WanTransformer3DModel) -> WanPipeline:
    """With nothing but a transformer: prompts come embedded, and latents are not decoded."""
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def overhead(suite: Suite) -> Iterator[Row]:
    """Computed and reused calls of both caches beside a loop that was written by hand into the model."""
    models = ("tiny",) if suite.is_smoke else ("Wan 2.1 1.3B", "Wan 2.1 14B")
    latents = ((2, 8, 8),) if suite.is_smoke else OVERHEAD_LATENTS
    configs: dict[str, tuple[Any, int]] = {
        "LeMiCa": (LeMiCaConfig(CacheSchedule(STEPS_OF_SCHEDULE, tuple(range(0, STEPS_OF_SCHEDULE, 2)))), 0),
        "DBCache": (
            DBCacheConfig(residual_diff_threshold=1e9, max_warmup_steps=0, max_continuous_cached_steps=1),
            1,
        ),
    }
    for model, (name, (config, probe_blocks)) in itertools.product(models, configs.items()):
        rows = compare(suite, model, name, config, probe_blocks, latents)
        yield from attempt(rows, f"cache overhead: {name}", width_of=model)


def compare(
    suite: Suite, model: str, name: str, config: Any, probe_blocks: int, latents: tuple[tuple[int, ...], ...]
) -> Iterator[Row]:
    """Two rows a size; ``ratio`` is the time of the loop by hand over ours."""
    blocks = 2 if suite.is_smoke else OVERHEAD_BLOCKS
    plain, own = build(suite, model, blocks), build(suite, model, blocks)
    hand = HandWritten(plain, probe_blocks)
    plain.forward = hand.forward
    prompt, timestep = text(suite), torch.tensor([500.0], device=suite.device)
    pipe = pipeline(own)
    pipe.scheduler.set_timesteps(STEPS_OF_SCHEDULE)
    steps = iter(range(STEPS_OF_SCHEDULE))

    def by_hand(given: Tensor, is_reuse: bool) -> Tensor:
        hand.is_reuse = is_reuse
        return run(plain, given)

    def ours(given: Tensor) -> Tensor:
        return run(own, given, step_index=next(steps), num_inference_steps=STEPS_OF_SCHEDULE)

    def run(transformer: WanTransformer3DModel, given: Tensor, **context: Any) -> Tensor:
        with transformer.cache_context("cond", **context):
            output: Tensor = transformer(given, timestep, prompt, return_dict=False)[0]
        return output

    with torch.no_grad(), enable_acceleration(pipe, config):
        for frames, height, width in latents:
            given = torch.randn(1, 16, frames, height, width, device=suite.device, dtype=suite.dtype)
            calls = {
                "hand, computed": functools.partial(by_hand, given, False),
                "hand, reused": functools.partial(by_hand, given, True),
                "computed": functools.partial(ours, given),
                "reused": functools.partial(ours, given),
            }
            differences = {"computed": difference(calls, "computed"), "reused": difference(calls, "reused")}
            times = suite.clock.time(calls, in_order=True)  # computed and reused calls of each must alternate
            shapes = {"tokens": frames * height * width // 4, "blocks": blocks, "width": width_of(own)}
            for kind in ("computed", "reused"):
                by_hand_s, own_s = times[f"hand, {kind}"], times[kind]
                ratio, figures = ratios(by_hand_s, own_s)
                figures |= spread(own_s)
                more = [mine - other for mine, other in zip(own_s, by_hand_s, strict=True)]
                figures["overhead_us"] = 1e6 * statistics.median(more)
                yield Row(
                    QUESTION,
                    f"cache overhead: {name}, {kind} call",
                    "random Wan",
                    shapes,
                    suite.dtype_name,
                    ratio=ratio,
                    quality={"difference": differences[kind]},
                    setting={"width_of": model, "probe_blocks": probe_blocks, "baseline": "loop by hand"},
                    figures=figures,
                )


def difference(calls: dict[str, Any], kind: str) -> float:
    """Relative difference of the outputs of both loops; one call of each."""
    hand, own = calls[f"hand, {kind}"]().float(), calls[kind]().float()
    return float((own - hand).norm() / hand.norm())


def methods(suite: Suite, num_steps: int) -> dict[str, tuple[Any, ...]]:
    """What is run on the models with random weights; the first is the full run."""
    schedule = LeMiCaConfig(CacheSchedule.uniform(num_steps, num_steps // 2))
    sparse = SVG2Config(top_p=0.5, min_tokens=0, dense_steps=0.0, dense_layers=0.0)
    reuse_all = DBCacheConfig(residual_diff_threshold=1e9, max_warmup_steps=1, max_continuous_cached_steps=1)
    return {
        "full": (),
        "LeMiCa": (schedule,),
        "DBCache": (reuse_all,),
        "DBCache, taylor1": (replace(reuse_all, forecast="taylor1"),),
        "SVG2": (sparse,),
        "LeMiCa and SVG2": (schedule, sparse),
    }


def memory(suite: Suite) -> Iterator[Row]:
    """Peak memory and time of a denoising loop with each method, on random weights."""
    for run in SMOKE_RUNS if suite.is_smoke else MEMORY_RUNS:
        yield from attempt(runs_of(suite, *run), "run", model=run[0])


def runs_of(suite: Suite, model: str, blocks: int, height: int, width: int, frames: int, steps: int) -> Iterator[Row]:
    """A row for each method."""
    pipe, prompt = pipeline(build(suite, model, blocks)), text(suite)
    arguments = {
        "prompt_embeds": prompt,
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": 1.0,
        "output_type": "latent",
    }
    # Compiles what compiles, so that no method pays for it.
    timed_run(pipe, methods(suite, steps)["SVG2"], 0, **{**arguments, "num_inference_steps": 2})
    full: TimedRun | None = None
    tokens = (frames - 1) // 4 * (height // 16) * (width // 16) + (height // 16) * (width // 16)
    for name, what in methods(suite, steps).items():
        if full is not None:
            suite.clock.deadline.require(full.seconds, f"a run with {name}")
        found = timed_run(pipe, what, 0, **arguments)
        full = full or found
        figures = {"seconds": found.seconds}
        if found.peak_memory_bytes is not None and full.peak_memory_bytes is not None:
            figures["peak_memory_mib"] = (found.peak_memory_bytes - CACHE_BYTES) / 2**20  # that of the clock
            figures["over_full_mib"] = (found.peak_memory_bytes - full.peak_memory_bytes) / 2**20
        if found.stats is not None:
            figures["cache_mib"] = found.stats.cache_bytes_peak / 2**20
        budget = {"computed_steps": found.full_steps if found.stats else steps, "num_steps": steps}
        density = found.stats.density if found.stats else None
        yield Row(
            QUESTION,
            f"run: {name}",
            f"random Wan, {model}",
            {"tokens": tokens, "blocks": blocks, "width": width_of(pipe.transformer)},
            suite.dtype_name,
            budget=budget if density is None else {**budget, "density": density},
            ratio=None if name == "full" else full.seconds / found.seconds,
            setting={"runs": 1},
            figures=figures,
        )


def host_syncs(suite: Suite) -> Iterator[Row]:
    """How often the host waits for the device in a warm call of a layer's attention, and in a denoising loop.

    torch tells of reads and copies that wait. Of events it does not: SVG2 with ``refresh_every`` above 1 reads one a
    layer and step, which was recorded a step earlier.
    """
    if suite.device.type != "cuda":
        yield not_measured("host syncs", "only CUDA tells")
        return
    try:
        load_backend("triton", suite.device)
    except BackendUnavailableError as problem:
        yield not_measured("host syncs", problem)
        return
    model, num_tokens = sizes(suite)[0]
    given = setup(suite, model, num_tokens)
    for name, changes in {"svg2_attention": {}, "svg2_attention, refresh_every 4": {"refresh_every": 4}}.items():
        warm = Warm(given, 0.3, "triton", **changes)
        figures = {"syncs": sum(count_syncs(warm) for _ in range(4)), "calls": 4}
        yield Row(QUESTION, f"host syncs: {name}", "none", given.shapes, suite.dtype_name, figures=figures)
    transformer, steps = build(suite, "tiny", 4), 6
    for name, what in methods(suite, steps).items():
        pipe = pipeline(transformer)
        arguments = {"height": 128, "width": 128, "num_frames": 17, "guidance_scale": 1.0, "output_type": "latent"}
        with ExitStack() as stack:
            if what:
                stack.enter_context(enable_acceleration(pipe, *what))
            call = functools.partial(pipe, prompt_embeds=text(suite), num_inference_steps=steps, **arguments)
            call()
            figures = {"syncs": count_syncs(call), "steps": steps}
        shapes = {"tokens": 5 * 8 * 8, "blocks": 4}
        yield Row(QUESTION, f"host syncs: run, {name}", "random Wan, tiny", shapes, suite.dtype_name, figures=figures)


def count_syncs(call: Any) -> int:
    """How often ``call`` waits for the device, as far as torch tells."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(SYNC_WARNING in str(warning.message) for warning in seen)
