"""Allegro text-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import AllegroPipeline

_CHANNELS = 4


def tiny() -> AllegroPipeline:
    """A four-block Allegro with random weights."""
    import torch
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    from .tiny.text import TEXT_DIM, t5_encoder, word_tokenizer

    torch.manual_seed(0)
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=_CHANNELS,
        out_channels=_CHANNELS,
        num_layers=4,
        cross_attention_dim=24,
        sample_height=4,
        sample_width=4,
        sample_frames=3,
        caption_channels=TEXT_DIM,
    )
    vae = AutoencoderKLAllegro(
        block_out_channels=(4, 4, 4, 4), latent_channels=_CHANNELS, layers_per_block=1, norm_num_groups=2
    )
    return AllegroPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5_encoder(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        # The published beta_end is 0.02: so much noise that without training the latents would remain huge.
        scheduler=EulerAncestralDiscreteScheduler(beta_start=0.0001, beta_end=0.002),
    )


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 9 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "guidance_scale": 7.5,
        "max_sequence_length": 16,
        "clean_caption": False,  # it would ask for two more packages
    }


ALLEGRO = register_pipeline(
    PipelineSpec(
        family="allegro",
        pipelines={
            "diffusers.pipelines.allegro.pipeline_allegro.AllegroPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
                    "no guidance": {"guidance_scale": 1.0},
                    "another size": {"height": 48},
                },
            ),
        },
        denoisers={"transformer": BlockSpec(("transformer_blocks",), attention=AttentionSpec("attn1"))},
    )
)
