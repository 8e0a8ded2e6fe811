"""HunyuanVideo 1.5: text-to-video and image-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline, Variant, lemica_presets

if TYPE_CHECKING:
    from diffusers import HunyuanVideo15ImageToVideoPipeline, HunyuanVideo15Pipeline
    from transformers import T5EncoderModel

_CHANNELS = 4
_SIZE = 32
_IMAGE_TOKENS = 4


def tiny() -> HunyuanVideo15Pipeline:
    """A four-block text-to-video pipeline with random weights."""
    from diffusers import HunyuanVideo15Pipeline

    pipe = HunyuanVideo15Pipeline(**_parts(task_type="t2v"))
    pipe.vision_num_semantic_tokens = _IMAGE_TOKENS
    return _shorten_texts(pipe)


def tiny_image_to_video() -> HunyuanVideo15ImageToVideoPipeline:
    """The same with a picture as the first frame."""
    from diffusers import HunyuanVideo15ImageToVideoPipeline

    from .tiny.siglip import siglip_image_processor, siglip_model

    return _shorten_texts(
        HunyuanVideo15ImageToVideoPipeline(
            image_encoder=siglip_model(), feature_extractor=siglip_image_processor(), **_parts(task_type="i2v")
        )
    )


def _shorten_texts(pipe: Any) -> Any:
    """Prompts of 16 tokens instead of 1000, in a short frame."""
    pipe.system_message = "describe the video"
    pipe.prompt_template_encode_start_idx = 11
    pipe.tokenizer_max_length = 16
    pipe.tokenizer_2_max_length = 8
    return pipe


def _parts(task_type: str) -> dict[str, Any]:
    """What both pipelines have in common."""
    import torch
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import ByT5Tokenizer

    from .tiny.blocks import strengthen_blocks
    from .tiny.qwen import qwen25_text_model, qwen_tokenizer
    from .tiny.siglip import IMAGE_DIM
    from .tiny.text import TEXT_DIM

    torch.manual_seed(0)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=2 * _CHANNELS + 1,
        out_channels=_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=4,
        num_refiner_layers=1,
        text_embed_dim=TEXT_DIM,
        text_embed_2_dim=TEXT_DIM,
        image_embed_dim=IMAGE_DIM,
        rope_axes_dim=(4, 4, 4),
        target_size=_SIZE,
        task_type=task_type,
    )
    strengthen_blocks(transformer, "transformer_blocks")
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=_CHANNELS, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
    )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": qwen25_text_model(),
        "tokenizer": qwen_tokenizer(),
        "text_encoder_2": _byt5_encoder(),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


def _byt5_encoder() -> T5EncoderModel:
    """Reads the quoted words of a prompt byte by byte."""
    import torch
    from transformers import T5Config, T5EncoderModel

    from .tiny.text import TEXT_DIM

    torch.manual_seed(1)
    config = T5Config(vocab_size=384, d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    return T5EncoderModel(config).eval()


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 9 frames."""
    return {**_prompts(), "height": _SIZE, "width": _SIZE}


def tiny_image_to_video_inputs() -> dict[str, Any]:
    """The same with a picture, whose shape gives the video's."""
    from .tiny.pictures import noise_image

    return {**_prompts(), "image": noise_image(_SIZE, _SIZE)}


def _prompts() -> dict[str, Any]:
    from .tiny.text import PROMPT

    return {"prompt": PROMPT, "negative_prompt": 'bad "one"', "num_frames": 9}


_BATCH_OF_TWO = {
    "prompt": ["a red seven moving left on navy", 'a cyan "one" spinning on black'],
    "negative_prompt": ["bad quality", "bad quality"],
}
_MODULE = "diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5"

# The model's own processor builds an S × S mask in every block; that of its predecessor is the same without it.
_PROCESSORS = {
    "HunyuanVideo15AttnProcessor2_0": "diffusers.models.transformers.transformer_hunyuan_video."
    "HunyuanVideoAttnProcessor2_0"
}

HUNYUAN_VIDEO15 = register_pipeline(
    PipelineSpec(
        family="hunyuan-video-1.5",
        pipelines={
            f"{_MODULE}.HunyuanVideo15Pipeline": TinyPipeline(
                tiny, tiny_inputs, variations={"batch of two": _BATCH_OF_TWO, "another size": {"height": 2 * _SIZE}}
            ),
            f"{_MODULE}_image2video.HunyuanVideo15ImageToVideoPipeline": TinyPipeline(
                tiny_image_to_video, tiny_image_to_video_inputs, variations={"batch of two": _BATCH_OF_TWO}
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("transformer_blocks",),
                ("hidden_states", "encoder_hidden_states"),
                attention=AttentionSpec("attn", text="end", masks_only_text=True, processors=_PROCESSORS),
            )
        },
        variants=(
            Variant(
                name="hunyuan-video-1.5",
                denoiser_config={
                    "num_layers": 54,
                    "num_attention_heads": 16,
                    "attention_head_dim": 128,
                    "use_meanflow": False,
                },
                presets=lemica_presets("hunyuan-video-1.5"),
                pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
            ),
        ),
    )
)
