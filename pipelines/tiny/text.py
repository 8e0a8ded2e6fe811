"""Tiny text sides: word-level tokenizers and encoders with random weights."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

PROMPT = "a red seven moving left on navy"
OTHER_PROMPT = "a cyan one spinning on black"
VOCAB_SIZE = 64
TEXT_DIM = 16
_SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
_WORDS = tuple(dict.fromkeys(f"{PROMPT} {OTHER_PROMPT} the of and bad quality".split()))


def word_tokenizer(max_length: int = 32) -> PreTrainedTokenizerFast:
    """One token a word, closed by ``</s>``."""
    vocab = {word: index for index, word in enumerate([*_SPECIAL, *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=max_length,
    )


def t5_encoder(d_model: int = TEXT_DIM, seed: int = 1) -> T5EncoderModel:
    """A one-layer T5 encoder."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCAB_SIZE, d_model=d_model, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config).eval()


def umt5_encoder(d_model: int = TEXT_DIM, seed: int = 1) -> UMT5EncoderModel:
    """A one-layer UMT5 encoder."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=VOCAB_SIZE, d_model=d_model, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return UMT5EncoderModel(config).eval()


def clip_text_encoder(hidden_size: int = 8, seed: int = 1) -> CLIPTextModel:
    """A one-layer CLIP text encoder."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=3,
        eos_token_id=1,
        pad_token_id=0,
    )
    return CLIPTextModel(config).eval()
