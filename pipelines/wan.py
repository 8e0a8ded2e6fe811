"""Wan text-to-video (Wan 2.1 and the models built on its code)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import BlockSpec, PipelineSpec, TinyPipeline, Variant, lemica_presets

if TYPE_CHECKING:
    from diffusers import WanPipeline


def tiny() -> WanPipeline:
    """A four-block Wan with random weights."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    from .tiny.text import TEXT_DIM, umt5_encoder, word_tokenizer

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return WanPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=umt5_encoder(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and 9 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "height": 16,
        "width": 16,
        "num_frames": 9,
        "guidance_scale": 4.0,
        "max_sequence_length": 16,
    }


WAN = register_pipeline(
    PipelineSpec(
        family="wan",
        pipelines={
            "diffusers.pipelines.wan.pipeline_wan.WanPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
                    "no guidance": {"guidance_scale": 1.0},
                    "another size": {"height": 32},
                },
            ),
        },
        denoisers={"transformer": BlockSpec(("blocks",)), "transformer_2": BlockSpec(("blocks",))},
        variants=(
            Variant(
                name="digits-wan",
                denoiser_config={"num_layers": 12, "num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 64},
                presets=lemica_presets("digits-wan", ("lemica-slow", "lemica-medium", "lemica-fast", "lemica-ultra")),
                pipelines=("WanPipeline",),
            ),
        ),
    )
)
