"""Wan text-to-video (Wan 2.1 and the models built on its code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_accel.registry import register_pipeline
from dit_accel.specs import BlockSpec, PipelineSpec, Variant, lemica_presets

if TYPE_CHECKING:
    from diffusers import WanPipeline


def tiny() -> WanPipeline:
    """A four-block Wan with random weights and the demo model's text side."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    from .digits_wan.text import TEXT_DIM, build_text_encoder, build_tokenizer

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
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


WAN = register_pipeline(
    PipelineSpec(
        family="wan",
        pipeline_classes=("diffusers.pipelines.wan.pipeline_wan.WanPipeline",),
        denoisers=("transformer", "transformer_2"),
        blocks=BlockSpec(lists=("blocks",)),
        tiny=tiny,
        tiny_inputs={"height": 16, "width": 16, "num_frames": 9, "guidance_scale": 4.0, "max_sequence_length": 16},
        variants=(
            Variant(
                name="digits-wan",
                denoiser_config={"num_layers": 12, "num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 64},
                presets=lemica_presets("digits-wan", ("lemica-slow", "lemica-medium", "lemica-fast", "lemica-ultra")),
            ),
        ),
    )
)
