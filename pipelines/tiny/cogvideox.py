"""Parts that the tiny CogVideoX and ConsisID pipelines share: measures, text side, autoencoder and schedulers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler

from .text import TEXT_DIM, t5_encoder, word_tokenizer

CHANNELS = 4
TEXT_TOKENS = 16
NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def cogvideox_config(in_channels: int) -> dict[str, Any]:
    """Arguments of a four-block transformer for videos of up to 48 × 48 pixels."""
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": in_channels,
        "out_channels": CHANNELS,
        "time_embed_dim": 16,
        "text_embed_dim": TEXT_DIM,
        "num_layers": 4,
        "sample_width": 6,
        "sample_height": 6,
        "sample_frames": 9,
        "max_text_seq_length": TEXT_TOKENS,
    }


def cogvideox_parts(seed: int = 2) -> dict[str, Any]:
    """The components beside transformer and scheduler; the autoencoder shrinks space by 8 and time by 4."""
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=CHANNELS, layers_per_block=1, norm_num_groups=2
    )
    return {"vae": vae.eval(), "tokenizer": word_tokenizer(), "text_encoder": t5_encoder()}


def dpm_scheduler() -> CogVideoXDPMScheduler:
    """The scheduler of the models of 5 billion parameters."""
    return CogVideoXDPMScheduler(snr_shift_scale=1.0, **NOISE_SCHEDULE)
