"""Motif-Video: text-to-video and image-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import MotifVideoImage2VideoPipeline, MotifVideoPipeline

_SIZE = 32
_LISTS = ("transformer_blocks", "single_transformer_blocks")


def tiny() -> MotifVideoPipeline:
    """Two dual-stream blocks, two single-stream blocks and two of the decoder, which reads the others' result."""
    from diffusers import MotifVideoPipeline

    return MotifVideoPipeline(**_parts())


def tiny_image_to_video() -> MotifVideoImage2VideoPipeline:
    """The same with a picture as the first frame."""
    from diffusers import MotifVideoImage2VideoPipeline

    return MotifVideoImage2VideoPipeline(**_parts())


def _parts() -> dict[str, Any]:
    """What both pipelines have in common: everything."""
    import torch
    from diffusers import (
        AutoencoderKLWan,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        MotifVideoTransformer3DModel,
    )

    from .tiny.blocks import strengthen_blocks
    from .tiny.siglip import IMAGE_DIM, siglip_image_processor
    from .tiny.t5gemma2 import t5gemma2_encoder
    from .tiny.text import TEXT_DIM, word_tokenizer

    torch.manual_seed(0)
    transformer = MotifVideoTransformer3DModel(
        in_channels=33,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=4,
        num_decoder_layers=2,
        text_embed_dim=TEXT_DIM,
        image_embed_dim=IMAGE_DIM,
        rope_axes_dim=(4, 4, 4),
        enable_text_cross_attention_single=True,
    )
    strengthen_blocks(transformer, *_LISTS)
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": t5gemma2_encoder(),
        "tokenizer": word_tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=4.0),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=15.0),
        "feature_extractor": siglip_image_processor(),
    }


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 9 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": _SIZE,
        "width": _SIZE,
        "num_frames": 9,
        "max_sequence_length": 16,
    }


def tiny_image_to_video_inputs() -> dict[str, Any]:
    """The same with a picture to start from."""
    from .tiny.pictures import noise_image

    return {**tiny_inputs(), "image": noise_image(_SIZE, _SIZE)}


_ANOTHER_SIZE = {"another size": {"height": _SIZE + 16}}
_BATCH_OF_TWO = {"batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]}}
_MODULE = "diffusers.pipelines.motif_video.pipeline_motif_video"

MOTIF_VIDEO = register_pipeline(
    PipelineSpec(
        family="motif-video",
        pipelines={
            f"{_MODULE}.MotifVideoPipeline": TinyPipeline(
                tiny, tiny_inputs, variations={**_BATCH_OF_TWO, **_ANOTHER_SIZE}
            ),
            f"{_MODULE}_image2video.MotifVideoImage2VideoPipeline": TinyPipeline(
                tiny_image_to_video, tiny_image_to_video_inputs, variations=_ANOTHER_SIZE
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                _LISTS,
                ("hidden_states", "encoder_hidden_states"),
                attention=AttentionSpec("attn", text="end", masks_only_text=True),
            )
        },
    )
)
