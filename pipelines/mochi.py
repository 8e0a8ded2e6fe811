"""Mochi 1 text-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import AutoencoderKLMochi, MochiPipeline, MochiTransformer3DModel


def tiny() -> MochiPipeline:
    """A four-block Mochi with random weights."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline

    from .tiny.text import t5_encoder, word_tokenizer

    torch.manual_seed(0)
    return MochiPipeline(
        transformer=_transformer(),
        vae=_vae(),
        tokenizer=word_tokenizer(),
        text_encoder=t5_encoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


def _transformer() -> MochiTransformer3DModel:
    """Four blocks that all matter; the last has no text to give on."""
    import torch
    from diffusers import MochiTransformer3DModel

    from .tiny.text import TEXT_DIM

    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=4,
        pooled_projection_dim=16,
        text_embed_dim=TEXT_DIM,
        time_embed_dim=16,
    )
    torch.nn.init.normal_(transformer.pos_frequencies, std=0.2)  # zero in a fresh model
    return transformer.eval()


def _vae() -> AutoencoderKLMochi:
    """Shrinks space by 8 and time by 6; its norms have 32 groups."""
    from diffusers import AutoencoderKLMochi

    channels = (32, 32, 32, 32)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels, layers_per_block=(1, 1, 1, 1, 1)
    )
    return vae.eval()


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 13 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": 32,
        "width": 32,
        "num_frames": 13,
        "guidance_scale": 4.5,
        "max_sequence_length": 16,
    }


MOCHI = register_pipeline(
    PipelineSpec(
        family="mochi",
        pipelines={
            "diffusers.pipelines.mochi.pipeline_mochi.MochiPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": {
                        "prompt": ["a red seven moving left on navy", "a cyan one spinning on black"],
                        "negative_prompt": ["bad quality", "bad quality"],
                    },
                    "no guidance": {"guidance_scale": 1.0},
                    "another size": {"height": 48},
                },
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("transformer_blocks",),
                ("hidden_states", "encoder_hidden_states"),
                attention=AttentionSpec("attn1", text="end"),
            )
        },
    )
)
