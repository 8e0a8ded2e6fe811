"""CogVideoX: text-, image- and video-to-video, and videos that follow a control video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        CogVideoXFunControlPipeline,
        CogVideoXImageToVideoPipeline,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
        CogVideoXVideoToVideoPipeline,
    )

_SIZE = 32
_FRAMES = 9


def tiny_text_to_video() -> CogVideoXPipeline:
    """Laid out as CogVideoX-2b: sine positions and DDIM."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    from .tiny.cogvideox import CHANNELS, NOISE_SCHEDULE, cogvideox_parts

    scheduler = CogVideoXDDIMScheduler(snr_shift_scale=3.0, **NOISE_SCHEDULE)
    return CogVideoXPipeline(transformer=_transformer(CHANNELS), scheduler=scheduler, **cogvideox_parts())


def tiny_image_to_video() -> CogVideoXImageToVideoPipeline:
    """Laid out as CogVideoX1.5-5B-I2V: patches of two frames and an embedded frame offset."""
    from diffusers import CogVideoXImageToVideoPipeline

    from .tiny.cogvideox import CHANNELS, cogvideox_parts, dpm_scheduler

    transformer = _transformer(
        2 * CHANNELS, use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False, ofs_embed_dim=16
    )
    return CogVideoXImageToVideoPipeline(transformer=transformer, scheduler=dpm_scheduler(), **cogvideox_parts())


def tiny_video_to_video() -> CogVideoXVideoToVideoPipeline:
    """Laid out as CogVideoX-5b: rotary positions and DPM."""
    from diffusers import CogVideoXVideoToVideoPipeline

    from .tiny.cogvideox import CHANNELS, cogvideox_parts, dpm_scheduler

    transformer = _transformer(CHANNELS, use_rotary_positional_embeddings=True)
    return CogVideoXVideoToVideoPipeline(transformer=transformer, scheduler=dpm_scheduler(), **cogvideox_parts())


def tiny_fun_control() -> CogVideoXFunControlPipeline:
    """Laid out as CogVideoX-Fun-V1.1-5b-Pose, which cannot be run with the DPM scheduler."""
    from diffusers import CogVideoXFunControlPipeline, DDIMScheduler

    from .tiny.cogvideox import CHANNELS, NOISE_SCHEDULE, cogvideox_parts

    transformer = _transformer(2 * CHANNELS, use_rotary_positional_embeddings=True)
    scheduler = DDIMScheduler(**NOISE_SCHEDULE)
    return CogVideoXFunControlPipeline(transformer=transformer, scheduler=scheduler, **cogvideox_parts())


def _transformer(in_channels: int, **config: Any) -> CogVideoXTransformer3DModel:
    """Four blocks that all matter."""
    import torch
    from diffusers import CogVideoXTransformer3DModel

    from .tiny.blocks import strengthen_blocks
    from .tiny.cogvideox import cogvideox_config

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**cogvideox_config(in_channels), **config)
    strengthen_blocks(transformer, "transformer_blocks")
    return transformer.eval()


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 9 frames."""
    return {**_common_inputs(), "num_frames": _FRAMES}


def tiny_image_inputs() -> dict[str, Any]:
    """The same with a first frame."""
    from .tiny.pictures import noise_image

    return {**tiny_inputs(), "image": noise_image(_SIZE, _SIZE)}


def tiny_video_inputs() -> dict[str, Any]:
    """A call with a video to start from, which leaves out the first of eight steps."""
    return {**_common_inputs(), "video": _clip(), "strength": 0.9}


def tiny_control_inputs() -> dict[str, Any]:
    """A call with a video to follow."""
    return {**_common_inputs(), "control_video": _clip()}


def _common_inputs() -> dict[str, Any]:
    from .tiny.cogvideox import TEXT_TOKENS
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": _SIZE,
        "width": _SIZE,
        "guidance_scale": 6.0,
        "max_sequence_length": TEXT_TOKENS,
    }


def _clip() -> list[Any]:
    from .tiny.pictures import noise_image

    return [noise_image(_SIZE, _SIZE, seed) for seed in range(_FRAMES)]


_ONE_PROMPT: dict[str, dict[str, Any]] = {"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 48}}
_TWO_PROMPTS: dict[str, Any] = {
    "prompt": ["a red seven moving left on navy", "a cyan one spinning on black"],
    "negative_prompt": ["bad quality", "bad quality"],
}
_ALL = {"batch of two": _TWO_PROMPTS, **_ONE_PROMPT}
_MODULE = "diffusers.pipelines.cogvideo.pipeline_cogvideox"

# Image and control video are not repeated for a second prompt, so that those pipelines take only one.
COGVIDEOX = register_pipeline(
    PipelineSpec(
        family="cogvideox",
        pipelines={
            f"{_MODULE}.CogVideoXPipeline": TinyPipeline(tiny_text_to_video, tiny_inputs, variations=_ALL),
            f"{_MODULE}_image2video.CogVideoXImageToVideoPipeline": TinyPipeline(
                tiny_image_to_video, tiny_image_inputs, variations=_ONE_PROMPT
            ),
            f"{_MODULE}_video2video.CogVideoXVideoToVideoPipeline": TinyPipeline(
                tiny_video_to_video, tiny_video_inputs, variations=_ALL
            ),
            f"{_MODULE}_fun_control.CogVideoXFunControlPipeline": TinyPipeline(
                tiny_fun_control, tiny_control_inputs, variations=_ONE_PROMPT
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
