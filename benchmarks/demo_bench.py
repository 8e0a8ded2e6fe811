"""The embedded model as a test bench: runs with what they took, and how far they are from another run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dit_accel import DEMO_INPUTS, load_demo_pipeline
from dit_accel._diffusers import DenoiseClock
from dit_accel.quality.metrics import METRICS

NUM_STEPS, BRANCHES = 50, 2
SEARCH_PROMPTS = (
    "a red three moving left on black",
    "a cyan eight spinning on gray",
    "a yellow five growing on navy",
    "a white two bouncing on black",
)
SEARCH_SEED = 0
FIGURES = {"psnr_db": "psnr", "psnr_moving_db": "psnr_moving", "ssim": "ssim", "st_lpips": "st_lpips"}


class Made(NamedTuple):
    """A run: video [T, C, H, W] in [0, 1] or latents, seconds of the denoising loop, computed steps a branch."""

    output: Tensor
    seconds: float
    computed_steps: float

    def figures(self, reference: Tensor) -> dict[str, float]:
        """How near the video is to another."""
        return {name: METRICS[metric](reference, self.output) for name, metric in FIGURES.items()}


@dataclass
class Bench:
    """The pipeline on one thread.

    A computed step is one in which block 6 of 12 runs. That is counted inside the block, for all methods alike.
    """

    pipe: Any
    block_calls: int = 0

    @classmethod
    def load(cls) -> Bench:
        """A bench with a pipeline of its own."""
        torch.set_num_threads(1)
        pipe = load_demo_pipeline()
        pipe.set_progress_bar_config(disable=True)
        bench = cls(pipe)
        pipe.transformer.blocks[6].ffn.net[0].register_forward_hook(bench._note)
        return bench

    def run(self, prompt: str, seed: int, *, output: str = "pt", num_steps: int = NUM_STEPS, **call: Any) -> Made:
        """One call of the pipeline."""
        self.block_calls = 0
        with DenoiseClock(self.pipe) as clock:
            frames = self.pipe(
                prompt=prompt,
                num_inference_steps=num_steps,
                generator=torch.Generator().manual_seed(seed),
                output_type=output,
                **DEMO_INPUTS,
                **call,
            ).frames
        return Made(frames[0], clock.seconds, self.block_calls / BRANCHES)

    def calibration_run(self) -> Any:
        """A full run of a video that is not held out."""
        return self.run(SEARCH_PROMPTS[0], SEARCH_SEED, output="latent")

    def _note(self, *_: Any) -> None:
        self.block_calls += 1
