"""Cosmos 3: one transformer reads the prompt and denoises the video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import Cosmos3OmniPipeline


def tiny() -> Cosmos3OmniPipeline:
    """A four-layer Cosmos 3 with random weights, without sound and action."""
    import torch
    from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler

    from .tiny.cosmos import wan_vae
    from .tiny.qwen import qwen_tokenizer
    from .tiny.text import VOCAB_SIZE

    torch.manual_seed(0)
    transformer = Cosmos3OmniTransformer(
        head_dim=12,
        hidden_size=24,
        intermediate_size=32,
        latent_channel=16,
        latent_patch_size=2,
        patch_latent_dim=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=4,
        rope_axes_dim=(2, 2, 2),
        vocab_size=VOCAB_SIZE,
    )
    return Cosmos3OmniPipeline(
        transformer=transformer.eval(),
        text_tokenizer=qwen_tokenizer(),
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            use_karras_sigmas=True,
            sigma_max=200.0,
            sigma_min=0.147,
        ),
        enable_safety_checker=False,
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
        "guidance_scale": 4.0,
    }


COSMOS3 = register_pipeline(
    PipelineSpec(
        family="cosmos3",
        pipelines={
            "diffusers.pipelines.cosmos.pipeline_cosmos3_omni.Cosmos3OmniPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 48}},
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("layers",),
                streams=("und_seq", "gen_seq"),
                video="gen_seq",
                attention=AttentionSpec("self_attn", text="start"),
            )
        },
    )
)
