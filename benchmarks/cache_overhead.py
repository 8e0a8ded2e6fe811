"""What the caching machinery itself costs, against a hand-written skip loop over the same blocks.

    OMP_NUM_THREADS=1 python benchmarks/cache_overhead.py [--out benchmarks/results/cache_overhead.json]

A 12-block Wan of width 128 with random weights, one thread. Computed and reused calls of both are timed in turn,
A B A B …, and the figures are medians of the pairwise ratios. Two rivals are timed in the same way where they are
installed: cache-dit, and diffusers' own FirstBlockCache.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from rows import Row, write_rows
from torch import Tensor

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, enable_acceleration

NUM_STEPS = 10_000  # more than are timed: computed and reused steps alternate
WARM_UP, FRAMES = 5, 9
Call = Callable[[Tensor], Tensor]


def build() -> WanTransformer3DModel:
    """The model that all loops run."""
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=64,
        freq_dim=256,
        ffn_dim=512,
        num_layers=12,
    ).eval()


class HandWritten:
    """`WanTransformer3DModel.forward` with a skip written into its loop, as one would for this model alone."""

    def __init__(self, model: WanTransformer3DModel, probe_blocks: int) -> None:
        self.model, self.probe_blocks, self.is_reuse = model, probe_blocks, False
        self.residual: Tensor | None = None
        self.anchor: Tensor | None = None

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        m = self.model
        batch, _, frames, height, width = latents.shape
        p_t, p_h, p_w = m.config.patch_size
        rotary = m.rope(latents)
        x = m.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        temb, projected, text, _ = m.condition_embedder(timestep, text, None, timestep_seq_len=None)
        x = self.blocks(x, text, projected.unflatten(1, (6, -1)), rotary)
        shift, scale = (m.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        x = m.proj_out((m.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
        x = x.reshape(batch, frames // p_t, height // p_h, width // p_w, p_t, p_h, p_w, -1)
        return (x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3),)

    def blocks(self, x: Tensor, *arguments: Any) -> Tensor:
        """The loop over the blocks, with the skip in it."""
        is_reuse, origin = self.is_reuse, x
        for block in self.model.blocks[: self.probe_blocks]:
            x = block(x, *arguments)
        entry = x
        if self.probe_blocks:
            probe = x - origin
            if is_reuse:
                distance = (probe - self.anchor).abs().mean() / self.anchor.abs().mean()
                is_reuse = distance.item() < 1e9
            if not is_reuse:
                self.anchor = probe
        if is_reuse:
            return entry + self.residual
        for block in self.model.blocks[self.probe_blocks :]:
            x = block(x, *arguments)
        self.residual = x - entry
        return x


TIMESTEP, TEXT = torch.tensor([500.0]), torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))


def run(model: WanTransformer3DModel, latents: Tensor, **context: Any) -> Tensor:
    """One call as a pipeline makes it."""
    with model.cache_context("cond", **context):
        output: Tensor = model(latents, TIMESTEP, TEXT, return_dict=False)[0]
    return output


@contextlib.contextmanager
def hand_written(probe_blocks: int) -> Iterator[Call]:
    """The loop in place of the model's forward; every second call is reused."""
    model = build()
    hand = HandWritten(model, probe_blocks)
    model.forward = hand.forward

    def call(latents: Tensor) -> Tensor:
        output = run(model, latents)
        hand.is_reuse = not hand.is_reuse
        return output

    yield call


@contextlib.contextmanager
def ours(probe_blocks: int) -> Iterator[Call]:
    """The model under dit_accel; every second call is reused."""
    model = build()
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), model)
    pipe.scheduler.set_timesteps(NUM_STEPS)
    if probe_blocks:
        config: Any = DBCacheConfig(
            residual_diff_threshold=1e9,
            probe_blocks=probe_blocks,
            max_warmup_steps=0,
            max_continuous_cached_steps=1,
        )
    else:
        config = LeMiCaConfig(CacheSchedule(NUM_STEPS, tuple(range(0, NUM_STEPS, 2))))
    steps = iter(range(NUM_STEPS))
    with enable_acceleration(pipe, config):
        yield lambda latents: run(model, latents, step_index=next(steps), num_inference_steps=NUM_STEPS)


# These two decide by themselves: a computed call gets a new input, a reused one the input of the call before it.
@contextlib.contextmanager
def first_block_cache(probe_blocks: int) -> Iterator[Call]:
    """diffusers' FirstBlockCache, whose probe is always one block."""
    model = build()
    model.enable_cache(FirstBlockCacheConfig(threshold=0.05))
    yield lambda latents: run(model, latents)


@contextlib.contextmanager
def cache_dit(probe_blocks: int) -> Iterator[Call]:
    """cache-dit's DBCache, no CFG."""
    import cache_dit

    model = build()
    adapter = cache_dit.BlockAdapter(
        transformer=model,
        blocks=model.blocks,
        forward_pattern=cache_dit.ForwardPattern.Pattern_2,
        has_separate_cfg=False,
    )
    config = cache_dit.DBCacheConfig(
        num_inference_steps=NUM_STEPS,
        Fn_compute_blocks=probe_blocks,
        Bn_compute_blocks=0,
        residual_diff_threshold=0.05,
        max_warmup_steps=0,
    )
    cache_dit.enable_cache(adapter, cache_config=config)
    try:
        yield lambda latents: run(model, latents)
    finally:
        cache_dit.disable_cache(adapter)


def seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Wall seconds of one call, and what it gave."""
    start = time.perf_counter()
    output = call()
    return time.perf_counter() - start, output


def compare(loop: Any, probe_blocks: int, tokens: int, pairs: int) -> dict[str, dict[str, float]]:
    """Time of the hand-written loop over that of ``loop`` for computed and reused calls, over ``pairs`` of them."""
    side = 2 * int((tokens // FRAMES) ** 0.5)  # a patch is 2 × 2
    ratios: dict[str, list[float]] = {"computed": [], "reused": []}
    own_ms: dict[str, list[float]] = {"computed": [], "reused": []}
    with torch.no_grad(), hand_written(probe_blocks) as plain, loop(probe_blocks) as own:
        for index in range(pairs + WARM_UP):
            latents = torch.randn(1, 16, FRAMES, side, side)
            runs: dict[Call, list[tuple[float, Tensor]]] = {}
            # Each loop's reused call comes right after its own computed one, so that both find the caches alike.
            for call in (plain, own) if index % 2 else (own, plain):
                runs[call] = [seconds(functools.partial(call, latents)) for _ in ratios]
            for kind, plain_run, own_run in zip(ratios, runs[plain], runs[own], strict=True):
                torch.testing.assert_close(plain_run[1], own_run[1], rtol=1e-4, atol=1e-4)
                if index >= WARM_UP:
                    ratios[kind].append(plain_run[0] / own_run[0])
                    own_ms[kind].append(1e3 * own_run[0])
    return {
        kind: {
            "ratio": statistics.median(ratios[kind]),
            "ratio_p20": statistics.quantiles(ratios[kind], n=5)[0],
            "ratio_p80": statistics.quantiles(ratios[kind], n=5)[3],
            "call_ms": statistics.median(own_ms[kind]),
        }
        for kind in ratios
    }


def main() -> None:
    """Time every loop and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[81, 324], help="9 times a square; the demo model has 324"
    )
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loops = [
        ("dit_accel LeMiCa", ours, 0),
        ("dit_accel DBCache", ours, 1),
        ("diffusers FirstBlockCache", first_block_cache, 1),
    ]
    try:
        import cache_dit as _installed  # noqa: F401

        loops.append(("cache-dit DBCache", cache_dit, 1))
    except ImportError:
        print("cache-dit is not installed: not measured")
    rows = [
        Row(
            question="cache_overhead",
            subject=f"{name}, {kind} call",
            pipeline="Wan, random weights",
            shapes={"tokens": tokens, "blocks": 12, "width": 128},
            ratio=figures.pop("ratio"),
            setting={"threads": 1, "probe_blocks": probe_blocks},
            figures=figures,
        )
        for tokens in args.tokens
        for name, loop, probe_blocks in loops
        for kind, figures in compare(loop, probe_blocks, tokens, args.pairs).items()
    ]
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
