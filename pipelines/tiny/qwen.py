"""Tiny Qwen text sides: a chat tokenizer, its processor, and Qwen2-VL and Qwen2.5-VL models with random weights."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from .text import OTHER_PROMPT, PROMPT, TEXT_DIM, VOCAB_SIZE

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_IDS = {token: index for index, token in enumerate(_SPECIAL)}
_WORDS = ("<unk>", "\n", *dict.fromkeys(f"{PROMPT} {OTHER_PROMPT} system user assistant describe the video".split()))
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>{{ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant{{ '\n' }}
{%- endif -%}
"""
_PATCH = 4


def qwen_tokenizer(max_length: int = 512) -> PreTrainedTokenizerFast:
    """One token a word, punctuation mark or line break; with Qwen's special tokens and a chat template."""
    vocab = {token: index for index, token in enumerate([*_SPECIAL, *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        extra_special_tokens=list(_SPECIAL[1:]),
        model_max_length=max_length,
        padding_side="right",
        chat_template=_CHAT_TEMPLATE,
    )


# Only the part for videos needs torchvision. A processor is asked for the parts that its constructor names, so these
# two name all but that one.
class Qwen2VLImageTextProcessor(Qwen2VLProcessor):
    """A Qwen2-VL processor without videos."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


class Qwen25VLImageTextProcessor(Qwen2_5_VLProcessor):
    """A Qwen2.5-VL processor without videos."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def _processor_parts(max_length: int) -> dict[str, Any]:
    side = 2 * _PATCH
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": side**2, "longest_edge": 4 * side**2},
        patch_size=_PATCH,
        temporal_patch_size=2,
        merge_size=2,
    )
    tokenizer = qwen_tokenizer(max_length)
    return {"image_processor": image_processor, "tokenizer": tokenizer, "chat_template": _CHAT_TEMPLATE}


def qwen2_vl_processor(max_length: int = 512) -> Qwen2VLProcessor:
    """The Qwen2-VL processor around `qwen_tokenizer`, for text and images."""
    return Qwen2VLImageTextProcessor(**_processor_parts(max_length))


def qwen25_vl_processor(max_length: int = 512) -> Qwen2_5_VLProcessor:
    """The Qwen2.5-VL processor around `qwen_tokenizer`, for text and images."""
    return Qwen25VLImageTextProcessor(**_processor_parts(max_length))


def _text_config(hidden_size: int, num_layers: int) -> dict[str, Any]:
    half_head = hidden_size // 4  # of two heads; the rotary sections share it between time, height and width
    side = half_head // 4
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [half_head - 2 * side, side, side],
        },
        # with Qwen's 0.02 the embeddings would be so small that the prompt hardly mattered
        "initializer_range": 0.5,
        "pad_token_id": _IDS["<|endoftext|>"],
        "bos_token_id": _IDS["<|endoftext|>"],
        "eos_token_id": _IDS["<|im_end|>"],
    }


def _vision_config(**own: Any) -> dict[str, Any]:
    return {
        "depth": 1,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": _PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **own,
    }


def _vision_tokens() -> dict[str, int]:
    return {
        "image_token_id": _IDS["<|image_pad|>"],
        "video_token_id": _IDS["<|video_pad|>"],
        "vision_start_token_id": _IDS["<|vision_start|>"],
        "vision_end_token_id": _IDS["<|vision_end|>"],
        "pad_token_id": _IDS["<|endoftext|>"],
    }


def qwen25_text_model(hidden_size: int = TEXT_DIM, num_layers: int = 3, seed: int = 1) -> Qwen2_5_VLTextModel:
    """The language part of Qwen2.5-VL without a head."""
    torch.manual_seed(seed)
    return Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**_text_config(hidden_size, num_layers))).eval()


def qwen25_vl_model(
    hidden_size: int = TEXT_DIM, num_layers: int = 2, seed: int = 1
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL with a one-block vision tower; images are patches of 4 × 4 pixels, merged two by two."""
    torch.manual_seed(seed)
    vision = _vision_config(
        hidden_size=16,
        intermediate_size=16,
        out_hidden_size=hidden_size,
        window_size=4 * _PATCH,
        fullatt_block_indexes=[0],
    )
    config = Qwen2_5_VLConfig(
        text_config=_text_config(hidden_size, num_layers), vision_config=vision, **_vision_tokens()
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen2_vl_model(hidden_size: int = TEXT_DIM, num_layers: int = 2, seed: int = 1) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL with a one-block vision tower; images are patches of 4 × 4 pixels, merged two by two."""
    torch.manual_seed(seed)
    vision = _vision_config(embed_dim=16, hidden_size=hidden_size, mlp_ratio=1)
    config = Qwen2VLConfig(text_config=_text_config(hidden_size, num_layers), vision_config=vision, **_vision_tokens())
    return Qwen2VLForConditionalGeneration(config).eval()
