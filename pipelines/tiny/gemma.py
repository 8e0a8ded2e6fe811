"""A tiny Gemma 3 text encoder."""

from __future__ import annotations

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

from .siglip import siglip_config
from .text import TEXT_DIM, VOCAB_SIZE

NUM_LAYERS = 1


def gemma3(hidden_size: int = TEXT_DIM, seed: int = 1) -> Gemma3ForConditionalGeneration:
    """A one-layer Gemma 3 with its (here unused) eyes."""
    torch.manual_seed(seed)
    text_config = Gemma3TextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
    )
    # The ids of image tokens lie outside the vocabulary of `word_tokenizer`, so that no prompt has an image.
    config = Gemma3Config(text_config=text_config, vision_config=siglip_config(), mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config).eval()
