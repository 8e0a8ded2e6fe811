"""EasyAnimate 5.1: text-to-video, control and inpainting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKLMagvit,
        EasyAnimateControlPipeline,
        EasyAnimateInpaintPipeline,
        EasyAnimatePipeline,
        EasyAnimateTransformer3DModel,
    )

_CHANNELS = 16
_SIZE = 32
_FRAMES = 5


def _transformer(in_channels: int) -> EasyAnimateTransformer3DModel:
    """Four blocks."""
    from diffusers import EasyAnimateTransformer3DModel

    from .tiny.text import TEXT_DIM

    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=_CHANNELS,
        patch_size=2,
        num_layers=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_DIM,
        add_norm_text_encoder=True,
        resize_inpaint_mask_directly=False,
    )
    return transformer.eval()


def _vae() -> AutoencoderKLMagvit:
    """A Magvit autoencoder that shrinks space by 8 and time by 4."""
    from diffusers import AutoencoderKLMagvit

    vae = AutoencoderKLMagvit(
        latent_channels=_CHANNELS, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )
    return vae.eval()


def _parts(in_channels: int) -> dict[str, Any]:
    """All components, with a transformer of so many input channels."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from .tiny.qwen import qwen2_vl_model, qwen_tokenizer

    torch.manual_seed(0)
    return {
        "transformer": _transformer(in_channels),
        "vae": _vae(),
        "tokenizer": qwen_tokenizer(),
        "text_encoder": qwen2_vl_model(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


def tiny() -> EasyAnimatePipeline:
    """A four-block text-to-video pipeline with random weights."""
    from diffusers import EasyAnimatePipeline

    return EasyAnimatePipeline(**_parts(_CHANNELS))


def tiny_control() -> EasyAnimateControlPipeline:
    """The same with channels for the control video and the reference image."""
    from diffusers import EasyAnimateControlPipeline

    pipe = EasyAnimateControlPipeline(**_parts(3 * _CHANNELS))
    encode_prompt = pipe.encode_prompt

    def encode(*args: Any, text_encoder_index: int = 0, **kwargs: Any) -> Any:
        return encode_prompt(*args, **kwargs)

    # In diffusers 0.42.1 the pipeline's call gives its own encode_prompt an argument that this does not take, so that
    # no call gets to the denoising (huggingface/diffusers#13638).
    pipe.encode_prompt = encode
    return pipe


def tiny_inpaint() -> EasyAnimateInpaintPipeline:
    """The same with channels for the mask and the masked video."""
    from diffusers import EasyAnimateInpaintPipeline

    return EasyAnimateInpaintPipeline(**_parts(3 * _CHANNELS))


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 5 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": _SIZE,
        "width": _SIZE,
        "num_frames": _FRAMES,
        "guidance_scale": 5.0,
    }


def tiny_control_inputs() -> dict[str, Any]:
    """The same with a control video."""
    return {**tiny_inputs(), "control_video": _clip()}


def tiny_inpaint_inputs() -> dict[str, Any]:
    """The same with a video of which the left half is to be repainted."""
    import torch

    mask = torch.zeros(1, 1, _FRAMES, _SIZE, _SIZE)
    mask[..., : _SIZE // 2] = 1.0
    return {**tiny_inputs(), "video": _clip(), "mask_video": mask}


def _clip() -> Any:
    """A video of random pixels as the tensor (1, 3, frames, height, width), from 0 to 1."""
    import torch

    from .tiny.pictures import noise_pixels

    return torch.from_numpy(noise_pixels(1, 3, _FRAMES, _SIZE, _SIZE)).float() / 255


_ONE_PROMPT: dict[str, dict[str, Any]] = {"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 48}}
_PROMPTS: dict[str, Any] = {
    "prompt": ["a red seven moving left on navy", "a cyan one spinning on black"],
    "negative_prompt": ["bad quality", "bad quality"],
}
_MODULE = "diffusers.pipelines.easyanimate.pipeline_easyanimate"

EASYANIMATE = register_pipeline(
    PipelineSpec(
        family="easyanimate",
        pipelines={
            f"{_MODULE}.EasyAnimatePipeline": TinyPipeline(
                tiny, tiny_inputs, variations={"batch of two": _PROMPTS, **_ONE_PROMPT}
            ),
            f"{_MODULE}_control.EasyAnimateControlPipeline": TinyPipeline(
                tiny_control, tiny_control_inputs, variations=_ONE_PROMPT
            ),
            f"{_MODULE}_inpaint.EasyAnimateInpaintPipeline": TinyPipeline(
                tiny_inpaint, tiny_inpaint_inputs, variations=_ONE_PROMPT
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
