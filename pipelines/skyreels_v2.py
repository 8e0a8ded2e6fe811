"""SkyReels-V2: text- and image-to-video, and diffusion forcing with its own noise level for every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        SkyReelsV2DiffusionForcingImageToVideoPipeline,
        SkyReelsV2DiffusionForcingPipeline,
        SkyReelsV2DiffusionForcingVideoToVideoPipeline,
        SkyReelsV2ImageToVideoPipeline,
        SkyReelsV2Pipeline,
    )


def tiny_t2v() -> SkyReelsV2Pipeline:
    """Text-to-video."""
    from diffusers import SkyReelsV2Pipeline

    return SkyReelsV2Pipeline(**_parts(flow_shift=8.0))


def tiny_i2v() -> SkyReelsV2ImageToVideoPipeline:
    """Image-to-video: the picture is in 20 more channels and in the context of the cross-attention."""
    from diffusers import SkyReelsV2ImageToVideoPipeline

    from .tiny.clip_vision import clip_image_processor, clip_vision_encoder

    return SkyReelsV2ImageToVideoPipeline(
        **_parts(flow_shift=5.0, has_image_context=True),
        image_encoder=clip_vision_encoder(),
        image_processor=clip_image_processor(),
    )


def tiny_forcing_t2v() -> SkyReelsV2DiffusionForcingPipeline:
    """Diffusion forcing from text."""
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    return SkyReelsV2DiffusionForcingPipeline(**_parts(flow_shift=8.0))


def tiny_forcing_i2v() -> SkyReelsV2DiffusionForcingImageToVideoPipeline:
    """Diffusion forcing from an image."""
    from diffusers import SkyReelsV2DiffusionForcingImageToVideoPipeline

    return SkyReelsV2DiffusionForcingImageToVideoPipeline(**_parts(flow_shift=5.0))


def tiny_forcing_v2v() -> SkyReelsV2DiffusionForcingVideoToVideoPipeline:
    """Diffusion forcing that continues a video."""
    from diffusers import SkyReelsV2DiffusionForcingVideoToVideoPipeline

    return SkyReelsV2DiffusionForcingVideoToVideoPipeline(**_parts(flow_shift=5.0))


def _parts(flow_shift: float, has_image_context: bool = False) -> dict[str, Any]:
    """Components that all five have."""
    from diffusers import SkyReelsV2Transformer3DModel, UniPCMultistepScheduler

    from .tiny.wan import wan_image_transformer, wan_parts, wan_transformer

    make_transformer = wan_image_transformer if has_image_context else wan_transformer
    return {
        **wan_parts(make_transformer(SkyReelsV2Transformer3DModel)),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
        ),
    }


def tiny_text_inputs() -> dict[str, Any]:
    """A call of 9 frames."""
    from .tiny.wan import wan_inputs

    return wan_inputs(num_frames=9)


def tiny_image_inputs() -> dict[str, Any]:
    """The same with a first frame."""
    from .tiny.wan import wan_image_inputs

    return wan_image_inputs(num_frames=9)


def tiny_long_text_inputs() -> dict[str, Any]:
    """13 frames, made as two sections of 9 that overlap by 5."""
    return {**tiny_text_inputs(), "num_frames": 13, "base_num_frames": 9, "overlap_history": 5}


def tiny_long_video_inputs() -> dict[str, Any]:
    """The same, continuing a video of 5 frames."""
    from .tiny.wan import noise_video

    return {**tiny_long_text_inputs(), "video": noise_video(5)}


_VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
    "no guidance": {"guidance_scale": 1.0},
    "another size": {"height": 32},
}
_MODULE = "diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2"

SKYREELS_V2 = register_pipeline(
    PipelineSpec(
        family="skyreels-v2",
        pipelines={
            _MODULE + ".SkyReelsV2Pipeline": TinyPipeline(tiny_t2v, tiny_text_inputs, variations=_VARIATIONS),
            _MODULE + "_i2v.SkyReelsV2ImageToVideoPipeline": TinyPipeline(
                tiny_i2v, tiny_image_inputs, variations=_VARIATIONS
            ),
            _MODULE + "_diffusion_forcing.SkyReelsV2DiffusionForcingPipeline": TinyPipeline(
                tiny_forcing_t2v, tiny_long_text_inputs, variations=_VARIATIONS
            ),
            _MODULE + "_diffusion_forcing_i2v.SkyReelsV2DiffusionForcingImageToVideoPipeline": TinyPipeline(
                tiny_forcing_i2v, tiny_image_inputs, variations=_VARIATIONS
            ),
            _MODULE + "_diffusion_forcing_v2v.SkyReelsV2DiffusionForcingVideoToVideoPipeline": TinyPipeline(
                tiny_forcing_v2v, tiny_long_video_inputs, variations=_VARIATIONS
            ),
        },
        denoisers={"transformer": BlockSpec(("blocks",), attention=AttentionSpec("attn1"))},
    )
)
