"""A tiny SigLIP vision tower."""

from __future__ import annotations

import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

IMAGE_DIM = 8
_IMAGE_SIZE = 8


def siglip_config(hidden_size: int = IMAGE_DIM) -> SiglipVisionConfig:
    """One layer that makes four tokens of a picture of 8 × 8 pixels."""
    return SiglipVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=_IMAGE_SIZE,
        patch_size=_IMAGE_SIZE // 2,
    )


def siglip_model(hidden_size: int = IMAGE_DIM, seed: int = 1) -> SiglipVisionModel:
    """The model of `siglip_config`."""
    torch.manual_seed(seed)
    return SiglipVisionModel(siglip_config(hidden_size)).eval()


def siglip_image_processor() -> SiglipImageProcessorPil:
    """Scales pictures to what the model takes."""
    return SiglipImageProcessorPil(size={"height": _IMAGE_SIZE, "width": _IMAGE_SIZE})
