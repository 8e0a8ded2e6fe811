"""Tiny Llama text sides: a tokenizer with Llama's chat marks, Llama itself, and Llava for prompts with a picture."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from .text import TEXT_DIM, VOCAB_SIZE, word_tokenizer

IMAGE_TOKENS = 4  # tokens in which Llava sees a picture
_IMAGE_SIZE = 8


def llama_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """The word tokenizer with the marks of Llama's chats and ``<image>``."""
    tokenizer = word_tokenizer(max_length)
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    return tokenizer


def _llama_config(hidden_size: int) -> LlamaConfig:
    # Three layers, because the pipelines leave the last two out. With Llama's initializer_range of 0.02 the embeddings
    # would be so small that the prompt hardly mattered.
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=3,
        eos_token_id=1,
    )


def llama_model(hidden_size: int = TEXT_DIM, seed: int = 1) -> LlamaModel:
    """A three-layer Llama."""
    torch.manual_seed(seed)
    return LlamaModel(_llama_config(hidden_size)).eval()


def llava_model(hidden_size: int = TEXT_DIM, seed: int = 1) -> LlavaForConditionalGeneration:
    """The same Llama behind a CLIP vision tower that makes `IMAGE_TOKENS` tokens of a picture."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=_IMAGE_SIZE,
        patch_size=_IMAGE_SIZE // 2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=_llama_config(hidden_size),
        image_token_index=llama_tokenizer().convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return LlavaForConditionalGeneration(config).eval()


def llava_image_processor() -> Any:
    """The picture side of `llava_model`."""
    side = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    return CLIPImageProcessorPil(size=side, crop_size=side)
