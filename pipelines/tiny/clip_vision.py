"""A tiny CLIP image side: processor and vision encoder."""

from __future__ import annotations

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

VISION_DIM = 8
_SIDE = 8


def clip_image_processor() -> CLIPImageProcessorPil:
    """Shrinks pictures to what the encoder takes. The class without ``Pil`` would need torchvision."""
    return CLIPImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE})


def clip_vision_encoder(seed: int = 1) -> CLIPVisionModelWithProjection:
    """A two-layer CLIP vision encoder, of which pipelines read the layer before the last."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=VISION_DIM,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=_SIDE,
        patch_size=4,
    )
    return CLIPVisionModelWithProjection(config).eval()
