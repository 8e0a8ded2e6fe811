"""ConsisID: text-to-video that keeps a face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import ConsisIDPipeline, ConsisIDTransformer3DModel

_SIZE = 32
_ID_DIM = 8
_VIT_DIM = 8
_SCALES = 2


def tiny() -> ConsisIDPipeline:
    """Four blocks; the face is attended to after the first and the third."""
    # diffusers itself has the class only where OpenCV is installed, which no call without keypoints needs.
    from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline

    from .tiny.cogvideox import cogvideox_parts, dpm_scheduler

    return ConsisIDPipeline(transformer=_transformer(), scheduler=dpm_scheduler(), **cogvideox_parts())


def _transformer() -> ConsisIDTransformer3DModel:
    import torch
    from diffusers import ConsisIDTransformer3DModel

    from .tiny.blocks import strengthen_blocks
    from .tiny.cogvideox import CHANNELS, cogvideox_config

    torch.manual_seed(0)
    transformer = ConsisIDTransformer3DModel(
        # With the learned positions of the published model there is only one size.
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_interval=2,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=_ID_DIM,
        LFE_vit_dim=_VIT_DIM,
        LFE_depth=_SCALES,
        LFE_dim_head=4,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=4,
        LFE_output_dim=21,  # two thirds of the transformer's width, as its cross-attention takes for granted
        LFE_ff_mult=1,
        LFE_num_scale=_SCALES,
        **cogvideox_config(2 * CHANNELS),
    )
    strengthen_blocks(transformer, "transformer_blocks")
    return transformer.eval()


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 9 frames, with a face that is given as the features that face models find."""
    import torch

    from .tiny.cogvideox import TEXT_TOKENS
    from .tiny.pictures import noise_image
    from .tiny.text import PROMPT

    generator = torch.Generator().manual_seed(0)
    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "image": noise_image(_SIZE, _SIZE),
        "height": _SIZE,
        "width": _SIZE,
        "num_frames": 9,
        "guidance_scale": 6.0,
        "max_sequence_length": TEXT_TOKENS,
        "id_cond": torch.randn(1, _ID_DIM, generator=generator),
        "id_vit_hidden": [torch.randn(1, 5, _VIT_DIM, generator=generator) for _ in range(_SCALES)],
    }


CONSISID = register_pipeline(
    PipelineSpec(
        family="consisid",
        pipelines={
            # No batch of two: the image is not repeated for a second prompt.
            "diffusers.pipelines.consisid.pipeline_consisid.ConsisIDPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 48}},
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("transformer_blocks",),
                ("hidden_states", "encoder_hidden_states"),
                attention=AttentionSpec("attn1", text="start"),
            )
        },
    )
)
