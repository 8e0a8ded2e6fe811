"""HunyuanVideo: text-to-video, image-to-video, SkyReels image-to-video and FramePack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        HunyuanSkyreelsImageToVideoPipeline,
        HunyuanVideoFramepackPipeline,
        HunyuanVideoImageToVideoPipeline,
        HunyuanVideoPipeline,
    )

_CHANNELS = 4
_SIZE = 16
_LISTS = ("transformer_blocks", "single_transformer_blocks")


def tiny() -> HunyuanVideoPipeline:
    """Text-to-video with two dual-stream and three single-stream blocks."""
    from diffusers import HunyuanVideoPipeline, HunyuanVideoTransformer3DModel

    from .tiny.llama import llama_model

    parts = _parts()
    transformer = HunyuanVideoTransformer3DModel(in_channels=_CHANNELS, **_transformer_config())
    return HunyuanVideoPipeline(transformer=_strong(transformer), text_encoder=llama_model(), **parts)


def tiny_image_to_video() -> HunyuanVideoImageToVideoPipeline:
    """Image-to-video whose first frame's tokens have a modulation of their own."""
    from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel

    from .tiny.llama import llava_image_processor, llava_model

    parts = _parts()
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=_CHANNELS, image_condition_type="token_replace", **_transformer_config()
    )
    return HunyuanVideoImageToVideoPipeline(
        transformer=_strong(transformer), text_encoder=llava_model(), image_processor=llava_image_processor(), **parts
    )


def tiny_skyreels() -> HunyuanSkyreelsImageToVideoPipeline:
    """Image-to-video with the image's latents in channels of their own."""
    from diffusers import HunyuanSkyreelsImageToVideoPipeline, HunyuanVideoTransformer3DModel

    from .tiny.llama import llama_model

    parts = _parts()
    transformer = HunyuanVideoTransformer3DModel(in_channels=2 * _CHANNELS, **_transformer_config())
    return HunyuanSkyreelsImageToVideoPipeline(transformer=_strong(transformer), text_encoder=llama_model(), **parts)


def tiny_framepack() -> HunyuanVideoFramepackPipeline:
    """FramePack: the video grows section by section, each denoised beside the packed history."""
    from diffusers import HunyuanVideoFramepackPipeline, HunyuanVideoFramepackTransformer3DModel

    from .tiny.llama import llama_model
    from .tiny.siglip import IMAGE_DIM, siglip_image_processor, siglip_model

    parts = _parts()
    transformer = HunyuanVideoFramepackTransformer3DModel(
        in_channels=_CHANNELS,
        has_image_proj=True,
        image_proj_dim=IMAGE_DIM,
        has_clean_x_embedder=True,
        **_transformer_config(),
    )
    return HunyuanVideoFramepackPipeline(
        transformer=_strong(transformer),
        text_encoder=llama_model(),
        image_encoder=siglip_model(),
        feature_extractor=siglip_image_processor(),
        **parts,
    )


def _transformer_config() -> dict[str, Any]:
    from .tiny.text import TEXT_DIM

    return {
        "out_channels": _CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "text_embed_dim": TEXT_DIM,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 4),
    }


def _strong(transformer: Any) -> Any:
    from .tiny.blocks import strengthen_blocks

    strengthen_blocks(transformer, *_LISTS)
    return transformer.eval()


def _parts() -> dict[str, Any]:
    """What the four pipelines have in common."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from .tiny.llama import llama_tokenizer
    from .tiny.text import clip_text_encoder, word_tokenizer

    torch.manual_seed(0)
    return {
        "vae": _vae(),
        "tokenizer": llama_tokenizer(),
        "text_encoder_2": clip_text_encoder(),
        "tokenizer_2": word_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def _vae() -> AutoencoderKLHunyuanVideo:
    from diffusers import AutoencoderKLHunyuanVideo

    vae = AutoencoderKLHunyuanVideo(
        latent_channels=_CHANNELS,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    return vae.eval()


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and 9 frames, with embedded and classifier-free guidance."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": _SIZE,
        "width": _SIZE,
        "num_frames": 9,
        "guidance_scale": 6.0,
        "true_cfg_scale": 3.0,
        "max_sequence_length": 16,
        # the published template takes a hundred tokens
        "prompt_template": {"template": "<|start_header_id|>user<|end_header_id|>{}<|eot_id|>", "crop_start": 3},
    }


def tiny_image_inputs() -> dict[str, Any]:
    """The same with a picture to start from."""
    from .tiny.pictures import noise_image

    return {**tiny_inputs(), "image": noise_image(_SIZE, _SIZE)}


def tiny_image_to_video_inputs() -> dict[str, Any]:
    """The same with a template that has the picture in it."""
    from .tiny.llama import IMAGE_TOKENS

    template = (
        "<|start_header_id|>system<|end_header_id|><image><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    )
    return {
        **tiny_image_inputs(),
        "guidance_scale": 1.0,  # not both kinds of guidance, of which the pipeline warns
        "prompt_template": {
            "template": template,
            "crop_start": 8,
            "image_emb_start": 3,
            "image_emb_end": 3 + IMAGE_TOKENS,
            "image_emb_len": IMAGE_TOKENS,
        },
    }


def tiny_framepack_inputs() -> dict[str, Any]:
    """The same in sections of 9 frames, of which 9 frames take one."""
    return {**tiny_image_inputs(), "latent_window_size": 3}


_NO_GUIDANCE: dict[str, Any] = {"true_cfg_scale": 1.0}
_BATCH_OF_TWO: dict[str, Any] = {
    "prompt": ["a red seven moving left on navy", "a cyan one spinning on black"],
    "negative_prompt": ["bad quality", "bad quality"],
}
_VARIATIONS: dict[str, dict[str, Any]] = {"no guidance": _NO_GUIDANCE, "another size": {"height": 2 * _SIZE}}
_TWO_SECTIONS: dict[str, Any] = {"height": 2 * _SIZE, "num_frames": 17}
_MODULE = "diffusers.pipelines.hunyuan_video.pipeline_hunyuan_"

HUNYUAN_VIDEO = register_pipeline(
    PipelineSpec(
        family="hunyuan-video",
        pipelines={
            _MODULE + "video.HunyuanVideoPipeline": TinyPipeline(
                tiny, tiny_inputs, variations={"batch of two": _BATCH_OF_TWO, **_VARIATIONS}
            ),
            _MODULE + "video_image2video.HunyuanVideoImageToVideoPipeline": TinyPipeline(
                tiny_image_to_video, tiny_image_to_video_inputs, variations=_VARIATIONS
            ),
            _MODULE + "skyreels_image2video.HunyuanSkyreelsImageToVideoPipeline": TinyPipeline(
                tiny_skyreels, tiny_image_inputs, variations=_VARIATIONS
            ),
            _MODULE + "video_framepack.HunyuanVideoFramepackPipeline": TinyPipeline(
                tiny_framepack,
                tiny_framepack_inputs,
                variations={"no guidance": _NO_GUIDANCE, "another size": _TWO_SECTIONS},
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
