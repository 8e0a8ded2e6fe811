"""LTX-Video: text, image and condition to video, and long videos made window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKLLTXVideo,
        LTXConditionPipeline,
        LTXI2VLongMultiPromptPipeline,
        LTXImageToVideoPipeline,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

_SIDE = 64  # the least is 32, one latent pixel
_CHANNELS = 8


def tiny_text_to_video() -> LTXPipeline:
    """LTX-Video from text."""
    from diffusers import LTXPipeline

    from .tiny.ltx import shifting_scheduler

    return LTXPipeline(**_parts(), scheduler=shifting_scheduler())


def tiny_image_to_video() -> LTXImageToVideoPipeline:
    """LTX-Video from an image."""
    from diffusers import LTXImageToVideoPipeline

    from .tiny.ltx import shifting_scheduler

    return LTXImageToVideoPipeline(**_parts(), scheduler=shifting_scheduler())


def tiny_condition() -> LTXConditionPipeline:
    """LTX-Video 0.9.5 and later, from any number of images and videos; it hands its own grid to the scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline

    return LTXConditionPipeline(**_parts(), scheduler=FlowMatchEulerDiscreteScheduler())


def tiny_long() -> LTXI2VLongMultiPromptPipeline:
    """LTX-Video for long videos: a run of the scheduler for each window."""
    from diffusers import LTXEulerAncestralRFScheduler, LTXI2VLongMultiPromptPipeline

    return LTXI2VLongMultiPromptPipeline(**_parts(), scheduler=LTXEulerAncestralRFScheduler())


def _parts() -> dict[str, Any]:
    """All components but the scheduler."""
    import torch

    from .tiny.text import t5_encoder, word_tokenizer

    torch.manual_seed(0)
    return {
        "transformer": _transformer(),
        "vae": _vae(),
        "tokenizer": word_tokenizer(),
        "text_encoder": t5_encoder(),
    }


def _transformer() -> LTXVideoTransformer3DModel:
    """Four blocks."""
    from diffusers import LTXVideoTransformer3DModel

    from .tiny.text import TEXT_DIM

    return LTXVideoTransformer3DModel(
        in_channels=_CHANNELS,
        out_channels=_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=4,
        caption_channels=TEXT_DIM,
    ).eval()


def _vae() -> AutoencoderKLLTXVideo:
    """Shrinks space by 32, as the published one does, and time by 2."""
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo(
        latent_channels=_CHANNELS,
        block_out_channels=(8,),
        down_block_types=("LTXVideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("conv",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=16,
    ).eval()


def tiny_text_inputs() -> dict[str, Any]:
    """A call of 64 × 64 pixels and 5 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": _SIDE,
        "width": _SIDE,
        "num_frames": 5,
        "guidance_scale": 3.0,
        "max_sequence_length": 16,
    }


def tiny_image_inputs() -> dict[str, Any]:
    """The same, from an image."""
    from .tiny.pictures import noise_image

    return {**tiny_text_inputs(), "image": noise_image(_SIDE, _SIDE)}


def tiny_condition_inputs() -> dict[str, Any]:
    """The same, with a first frame and, as tokens of its own, a later frame."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    from .tiny.pictures import noise_image

    first, later = (noise_image(_SIDE, _SIDE, seed) for seed in (0, 1))
    conditions = [LTXVideoCondition(image=first), LTXVideoCondition(image=later, frame_index=4, strength=0.8)]
    return {**tiny_text_inputs(), "conditions": conditions}


def tiny_long_inputs() -> dict[str, Any]:
    """Two windows of 3 latent frames, a prompt for each; the second also takes in the end of the first."""
    from .tiny.text import OTHER_PROMPT, PROMPT

    inputs = tiny_image_inputs()
    image = inputs.pop("image")
    return {
        **inputs,
        "prompt": f"{PROMPT} | {OTHER_PROMPT}",
        "cond_image": image,
        "num_frames": 9,
        "temporal_tile_size": 6,
        "temporal_overlap": 2,
        "decode_horizontal_tiles": 1,
        "decode_vertical_tiles": 1,
        "decode_overlap": 0,
    }


def sigmas_to_zero(num_steps: int) -> dict[str, Any]:
    """The windowed loop leaves out the last of the scheduler's timesteps, so it is given one more."""
    return {"sigmas": [1 - step / num_steps for step in range(num_steps + 1)]}


VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
    "no guidance": {"guidance_scale": 1.0},
    "another size": {"height": 96},
}
_MODULE = "diffusers.pipelines.ltx.pipeline_ltx"

LTX = register_pipeline(
    PipelineSpec(
        family="ltx",
        pipelines={
            _MODULE + ".LTXPipeline": TinyPipeline(tiny_text_to_video, tiny_text_inputs, variations=VARIATIONS),
            _MODULE + "_image2video.LTXImageToVideoPipeline": TinyPipeline(
                tiny_image_to_video, tiny_image_inputs, variations=VARIATIONS
            ),
            _MODULE + "_condition.LTXConditionPipeline": TinyPipeline(
                tiny_condition,
                tiny_condition_inputs,
                # diffusers does not repeat a later frame's tokens for a second prompt.
                variations={**VARIATIONS, "batch of two": {**VARIATIONS["batch of two"], "conditions": None}},
            ),
            _MODULE + "_i2v_long_multi_prompt.LTXI2VLongMultiPromptPipeline": TinyPipeline(
                tiny_long,
                tiny_long_inputs,
                steps=sigmas_to_zero,
                variations={label: VARIATIONS[label] for label in ("no guidance", "another size")},
            ),
        },
        denoisers={"transformer": BlockSpec(("transformer_blocks",), attention=AttentionSpec("attn1"))},
    )
)
