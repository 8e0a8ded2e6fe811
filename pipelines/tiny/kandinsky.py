"""Parts that the tiny Kandinsky 5 and 6 pipelines share: both text sides and the video autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo

from .qwen import qwen25_vl_model, qwen25_vl_processor
from .text import clip_text_encoder, word_tokenizer

POOLED_DIM = 8


def kandinsky_text_parts() -> dict[str, Any]:
    """Qwen2.5-VL for the tokens and CLIP for the pooled embedding."""
    return {
        "text_encoder": qwen25_vl_model(),
        "tokenizer": qwen25_vl_processor(),
        "text_encoder_2": clip_text_encoder(hidden_size=POOLED_DIM),
        "tokenizer_2": word_tokenizer(),
    }


def hunyuan_vae(seed: int = 2) -> AutoencoderKLHunyuanVideo:
    """A HunyuanVideo autoencoder: 8 × smaller in space and 4 × in time, 16 channels."""
    torch.manual_seed(seed)
    vae = AutoencoderKLHunyuanVideo(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False
    )
    return vae.eval()
