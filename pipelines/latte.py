"""Latte text-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import LattePipeline

_LISTS = ("transformer_blocks", "temporal_transformer_blocks")
_FRAMES = 3
_CHANNELS = 4


def tiny() -> LattePipeline:
    """Four pairs of a spatial and a temporal block with random weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

    from .tiny.blocks import strengthen_blocks
    from .tiny.text import TEXT_DIM, t5_encoder, word_tokenizer

    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=_CHANNELS,
        out_channels=2 * _CHANNELS,  # noise and variance
        num_layers=4,
        cross_attention_dim=24,
        attention_bias=True,
        sample_size=4,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_DIM,
        video_length=_FRAMES,
    )
    strengthen_blocks(transformer, *_LISTS)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=_CHANNELS,
        norm_num_groups=2,
    )
    return LattePipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5_encoder(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        # The published beta_end is 0.02: so much noise that without training the latents would become huge.
        scheduler=DDIMScheduler(beta_start=0.0001, beta_end=0.002, clip_sample=False),
    )


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 3 frames, the only number that the transformer takes."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": 32,
        "width": 32,
        "video_length": _FRAMES,
        "guidance_scale": 7.5,
        "clean_caption": False,  # it would ask for two more packages
    }


LATTE = register_pipeline(
    PipelineSpec(
        family="latte",
        pipelines={
            "diffusers.pipelines.latte.pipeline_latte.LattePipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
                    "no guidance": {"guidance_scale": 1.0},
                    "another size": {"height": 48},
                },
            ),
        },
        denoisers={"transformer": BlockSpec(_LISTS, is_interleaved=True, attention=AttentionSpec("attn1"))},
    )
)
