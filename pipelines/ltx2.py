"""LTX-2: video with sound from text, images and reference videos, and the passes of its keyframe pipeline (DFR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        LTX2ConditionPipeline,
        LTX2DFRPipeline,
        LTX2DFRTemporalRefinePipeline,
        LTX2HDRPipeline,
        LTX2ImageToVideoPipeline,
        LTX2InContextPipeline,
        LTX2Pipeline,
    )
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
    from PIL.Image import Image

_SIDE = 64  # the least is 32, one latent pixel


def tiny_text_to_video() -> LTX2Pipeline:
    """LTX-2 from text."""
    from diffusers import LTX2Pipeline

    from .tiny.ltx import shifting_scheduler
    from .tiny.ltx2 import ltx2_parts

    return LTX2Pipeline(**ltx2_parts(), scheduler=shifting_scheduler())


def tiny_image_to_video() -> LTX2ImageToVideoPipeline:
    """LTX-2 from an image."""
    from diffusers import LTX2ImageToVideoPipeline

    from .tiny.ltx import shifting_scheduler
    from .tiny.ltx2 import ltx2_parts

    return LTX2ImageToVideoPipeline(**ltx2_parts(), scheduler=shifting_scheduler())


def tiny_condition() -> LTX2ConditionPipeline:
    """LTX-2 from any number of frames."""
    from diffusers import LTX2ConditionPipeline

    from .tiny.ltx import shifting_scheduler
    from .tiny.ltx2 import ltx2_parts

    return LTX2ConditionPipeline(**ltx2_parts(), scheduler=shifting_scheduler())


def tiny_in_context() -> LTX2InContextPipeline:
    """LTX-2 from a reference video."""
    from diffusers import LTX2InContextPipeline

    from .tiny.ltx import shifting_scheduler
    from .tiny.ltx2 import ltx2_parts

    return LTX2InContextPipeline(**ltx2_parts(), scheduler=shifting_scheduler())


def tiny_hdr() -> LTX2HDRPipeline:
    """LTX-2 that turns a reference video into one with a high dynamic range."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTX2HDRPipeline

    from .tiny.ltx2 import ltx2_parts

    return LTX2HDRPipeline(**ltx2_parts(), scheduler=FlowMatchEulerDiscreteScheduler())


def tiny_dfr() -> LTX2DFRPipeline:
    """LTX-2.5 that makes keyframes beside the video."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTX2DFRPipeline

    from .tiny.ltx2 import ltx2_5_parts

    return LTX2DFRPipeline(**ltx2_5_parts(), scheduler=FlowMatchEulerDiscreteScheduler())


def tiny_dfr_temporal_refine() -> LTX2DFRTemporalRefinePipeline:
    """LTX-2.5 that doubles the frame rate of a video: a run of the scheduler for each stretch of frames."""
    from diffusers import LTX2DFRTemporalRefinePipeline, LTXEulerAncestralRFScheduler

    from .tiny.ltx2 import ltx2_5_parts, temporal_upsampler

    return LTX2DFRTemporalRefinePipeline(
        **ltx2_5_parts(),
        temporal_latent_upsampler=temporal_upsampler(),
        scheduler=LTXEulerAncestralRFScheduler(eta=0.5),
    )


def _size_and_prompt() -> dict[str, Any]:
    from .tiny.text import PROMPT

    return {"prompt": PROMPT, "height": _SIDE, "width": _SIDE, "max_sequence_length": 16}


def tiny_text_inputs() -> dict[str, Any]:
    """A call of 64 × 64 pixels and 5 frames with all guidance on: three calls of the denoiser a step."""
    return {
        **_size_and_prompt(),
        "negative_prompt": "bad quality",
        "num_frames": 5,
        "guidance_scale": 3.0,
        "stg_scale": 1.0,
        "modality_scale": 3.0,
        "spatio_temporal_guidance_blocks": [2],
    }


def tiny_image_inputs() -> dict[str, Any]:
    """The same, from an image."""
    from .tiny.pictures import noise_image

    return {**tiny_text_inputs(), "image": noise_image(_SIDE, _SIDE), "image_crf": 0}


def tiny_condition_inputs() -> dict[str, Any]:
    """The same, with a first frame and, as tokens of its own, a last frame."""
    return {**tiny_text_inputs(), "conditions": [_condition(0, 1.0), _condition(-1, 0.8)]}


def tiny_in_context_inputs() -> dict[str, Any]:
    """The same, with a reference video that is half attended to."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition

    return {
        **tiny_condition_inputs(),
        "reference_conditions": LTX2ReferenceCondition(_reference_video()),
        "conditioning_attention_strength": 0.5,
    }


def tiny_hdr_inputs() -> dict[str, Any]:
    """A reference video; this pipeline also has guidance, but its published model needs none."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition

    return {**tiny_text_inputs(), "reference_conditions": LTX2HDRReferenceCondition(_reference_video())}


def tiny_dfr_inputs() -> dict[str, Any]:
    """Seven frames with a keyframe at their end, denoised in two overlapping tiles of 2 and 3 latent frames."""
    import torch
    from diffusers.pipelines.ltx2.dfr_layout import LTX2DFREpilogueTile

    whole = slice(0, 2)
    weight = torch.ones(3, 2, 2)
    weight[0] = 0  # the first tile already has this frame
    tiles = [
        LTX2DFREpilogueTile(slice(0, 2), whole, whole, torch.ones(2, 2, 2)),
        LTX2DFREpilogueTile(slice(1, 4), whole, whole, weight),
    ]
    return {**_size_and_prompt(), "num_frames": 7, "conditions": [_condition(0, 1.0)], "video_tiles": tiles}


def tiny_dfr_temporal_refine_inputs() -> dict[str, Any]:
    """Five frames with two keyframes, refined in two stretches of 3 and 5 latent frames."""
    import torch

    from .tiny.ltx2 import AUDIO_LATENT_CHANNELS, CHANNELS

    generator = torch.Generator().manual_seed(0)
    return {
        **_size_and_prompt(),
        "num_frames": 5,
        "latents": torch.randn(1, CHANNELS, 3, 2, 2, generator=generator),
        "keyframes_latents": torch.randn(1, CHANNELS, 2, 2, 2, generator=generator),
        "keyframe_positions": [2, 4],
        "audio_latents": torch.randn(1, AUDIO_LATENT_CHANNELS, 5, 2, generator=generator),
    }


def _condition(index: int, strength: float) -> LTX2VideoCondition:
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    from .tiny.pictures import noise_image

    # A crf of 0 leaves the picture as it is: compressing it would take PyAV.
    return LTX2VideoCondition(noise_image(_SIDE, _SIDE, seed=index % 2), index=index, strength=strength, crf=0)


def _reference_video() -> list[Image]:
    from .tiny.pictures import noise_image

    return [noise_image(_SIDE, _SIDE, seed) for seed in range(5)]


def by_sigmas(num_steps: int) -> dict[str, Any]:
    """The passes of the keyframe pipeline take a noise level for each step."""
    return {"sigmas": [1 - step / num_steps for step in range(num_steps)]}


_BATCH_OF_TWO: dict[str, Any] = {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]}
_ANOTHER_SIZE: dict[str, Any] = {"height": 96}
_NO_GUIDANCE = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
_NO_AUDIO_GUIDANCE = {"audio_guidance_scale": 1.0, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0}
VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": _BATCH_OF_TWO,
    "no guidance": {**_NO_GUIDANCE, **_NO_AUDIO_GUIDANCE},
    "another size": _ANOTHER_SIZE,
}
_MODULE = "diffusers.pipelines.ltx2.pipeline_ltx2"

LTX2 = register_pipeline(
    PipelineSpec(
        family="ltx2",
        pipelines={
            _MODULE + ".LTX2Pipeline": TinyPipeline(tiny_text_to_video, tiny_text_inputs, variations=VARIATIONS),
            _MODULE + "_image2video.LTX2ImageToVideoPipeline": TinyPipeline(
                tiny_image_to_video, tiny_image_inputs, variations=VARIATIONS
            ),
            _MODULE + "_condition.LTX2ConditionPipeline": TinyPipeline(
                tiny_condition, tiny_condition_inputs, variations=VARIATIONS
            ),
            _MODULE + "_ic_lora.LTX2InContextPipeline": TinyPipeline(
                tiny_in_context, tiny_in_context_inputs, variations=VARIATIONS
            ),
            _MODULE + "_hdr_lora.LTX2HDRPipeline": TinyPipeline(
                tiny_hdr, tiny_hdr_inputs, variations={**VARIATIONS, "no guidance": _NO_GUIDANCE}
            ),
            _MODULE + "_dfr.LTX2DFRPipeline": TinyPipeline(
                tiny_dfr,
                tiny_dfr_inputs,
                steps=by_sigmas,
                variations={"batch of two": _BATCH_OF_TWO, "another size": {**_ANOTHER_SIZE, "video_tiles": None}},
            ),
            _MODULE + "_dfr_temporal_refine.LTX2DFRTemporalRefinePipeline": TinyPipeline(
                tiny_dfr_temporal_refine, tiny_dfr_temporal_refine_inputs, steps=by_sigmas
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("transformer_blocks",), ("hidden_states", "audio_hidden_states"), attention=AttentionSpec("attn1")
            )
        },
    )
)
