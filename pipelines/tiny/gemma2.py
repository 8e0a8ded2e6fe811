"""A tiny Gemma 2 text encoder."""

from __future__ import annotations

import torch
from transformers import Gemma2Config, Gemma2Model

from .text import TEXT_DIM, VOCAB_SIZE


def gemma2_encoder(hidden_size: int = TEXT_DIM, seed: int = 1) -> Gemma2Model:
    """A one-layer Gemma 2."""
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
    )
    return Gemma2Model(config).eval()
