"""Parts of the tiny pipelines of Wan and of the models built on it."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from diffusers import ModelMixin, UniPCMultistepScheduler
from PIL import Image
from transformers import CLIPVisionModel

from .clip_vision import VISION_DIM, clip_image_processor, clip_vision_encoder
from .cosmos import wan_vae
from .pictures import noise_image
from .text import PROMPT, TEXT_DIM, umt5_encoder, word_tokenizer

SIDE = 16  # the least: the autoencoder shrinks by 8 and a patch is 2 × 2, so this is one token a frame
_WIDTH = 24
_CONTEXT = 512
Model = TypeVar("Model", bound=ModelMixin)
_SMALL: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": _WIDTH // 2,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 4,
    "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}


def wan_transformer(kind: type[Model], seed: int = 0, **config: Any) -> Model:
    """A transformer of four blocks, of the given class."""
    torch.manual_seed(seed)
    return kind(**{**_SMALL, **config}).eval()


def wan_image_transformer(kind: type[Model], **config: Any) -> Model:
    """The same with a picture in 20 more channels and in the context of the cross-attention."""
    return wan_transformer(kind, in_channels=36, image_dim=VISION_DIM, added_kv_proj_dim=_WIDTH, **config)


def wan_parts(transformer: ModelMixin) -> dict[str, Any]:
    """The components of every Wan pipeline."""
    return {
        "tokenizer": word_tokenizer(),
        "text_encoder": umt5_encoder(),
        "transformer": transformer,
        "vae": wan_vae(),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    }


def wan_image_parts(transformer: ModelMixin) -> dict[str, Any]:
    """The same with a CLIP image encoder."""
    config = clip_vision_encoder().config
    torch.manual_seed(1)
    return {
        **wan_parts(transformer),
        "image_encoder": CLIPVisionModel(config).eval(),
        "image_processor": clip_image_processor(),
    }


def wan_inputs(**more: Any) -> dict[str, Any]:
    """A prompt, 16 × 16 pixels and guidance."""
    return {
        "prompt": PROMPT,
        "height": SIDE,
        "width": SIDE,
        "guidance_scale": 4.0,
        "max_sequence_length": 16,
        **more,
    }


def wan_image_inputs(**more: Any) -> dict[str, Any]:
    """The same with a picture, and a prompt that fills the 512 tokens which the attention then takes for granted.

    Of a short prompt the padding would leave too little to tell the two branches of guidance apart.
    """
    prompt = " ".join([PROMPT] * (_CONTEXT // len(PROMPT.split())))
    return wan_inputs(image=noise_image(SIDE, SIDE), prompt=prompt, max_sequence_length=_CONTEXT, **more)


def noise_video(num_frames: int, side: int = SIDE) -> list[Image.Image]:
    """Frames of random pixels."""
    return [noise_image(side, side, seed) for seed in range(num_frames)]
