"""The text side of the demo model: a word-level tokenizer and a UMT5 encoder with orthogonal word vectors."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from .captions import words

TEXT_DIM = 64
MAX_SEQUENCE_LENGTH = 16
_SPECIAL = ("<pad>", "</s>", "<unk>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the grammar, closed by ``</s>``."""
    vocab = {word: index for index, word in enumerate([*_SPECIAL, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


@torch.no_grad()
def build_text_encoder(seed: int = 7) -> UMT5EncoderModel:
    """A UMT5 encoder whose word vectors are exactly orthogonal and reach the output unmixed.

    A randomly initialised encoder blends every word with its neighbours, and the digit is what a small model then
    fails to hear. Here the residual branches start at zero, so the encoder is a lookup followed by its final norm.
    """
    config = UMT5Config(
        vocab_size=48,
        d_model=TEXT_DIM,
        d_kv=16,
        num_heads=4,
        d_ff=128,
        num_layers=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    torch.manual_seed(seed)
    encoder = UMT5EncoderModel(config).eval()
    basis = nn.init.orthogonal_(torch.empty(TEXT_DIM, TEXT_DIM))[: config.vocab_size]
    encoder.shared.weight.copy_(basis * TEXT_DIM**0.5)
    for block in encoder.encoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].DenseReluDense.wo.weight.zero_()
    return encoder


@torch.no_grad()
def embed(prompts: list[str]) -> torch.Tensor:
    """Prompts -> embeddings [B, 16, 64], zero after ``</s>``: what ``WanPipeline`` gives the denoiser."""
    tokens = build_tokenizer()(prompts, padding="max_length", max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt")
    states = build_text_encoder()(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return states * tokens.attention_mask[..., None]
