"""A tiny T5Gemma 2 encoder, whose vision tower is a SigLIP."""

from __future__ import annotations

import torch
from transformers import T5Gemma2Encoder, T5Gemma2EncoderConfig, T5Gemma2TextConfig

from .siglip import siglip_config
from .text import TEXT_DIM, VOCAB_SIZE


def t5gemma2_encoder(hidden_size: int = TEXT_DIM, seed: int = 1) -> T5Gemma2Encoder:
    """One layer over the words of `word_tokenizer`; `siglip_config` describes its vision tower."""
    torch.manual_seed(seed)
    text = T5Gemma2TextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        layer_types=["full_attention"],
        dropout_rate=0.0,  # the full model would set it
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
    )
    end_of_image = VOCAB_SIZE - 1
    config = T5Gemma2EncoderConfig(
        text_config=text,
        vision_config=siglip_config(),
        mm_tokens_per_image=4,
        boi_token_index=VOCAB_SIZE - 3,
        eoi_token_index=end_of_image,
        image_token_index=VOCAB_SIZE - 2,
    )
    return T5Gemma2Encoder(config, eoi_token_index=end_of_image).eval()
