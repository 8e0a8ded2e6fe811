"""The demo VAE: an ``AutoencoderKLWan`` whose weights are computed, not trained.

It is the principal component analysis of 4x4x3 patches (48 numbers -> 16), written into the real architecture. Two
tricks make its RMS-norms and SiLUs transparent: a large constant channel freezes the norm, and every feature is
carried as a +/- pair, since ``silu(x) - silu(-x) = x``. All residual branches are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock, patchify
from torch import Tensor, nn

from .captions import Caption, all_captions
from .clips import render

LATENT_CHANNELS = 16
PATCH_PX = 4
BASE_DIM = 36
_CONSTANT = 64.0


def to_unit(videos: Tensor) -> Tensor:
    """uint8 videos -> float in [-1, 1], as the VAE takes them."""
    return videos.float() / 127.5 - 1


def principal_components(rng: np.random.Generator, num_clips: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [48], basis [48, 16] and variances [16] of the patches of ``num_clips`` random clips."""
    captions = all_captions()
    picked: list[Caption] = [captions[i] for i in rng.integers(len(captions), size=num_clips)]
    rows = patchify(to_unit(render(picked, rng)), PATCH_PX).movedim(1, -1).flatten(0, -2)
    mean = rows.mean(0)
    basis, variances, _ = torch.linalg.svd(torch.cov((rows - mean).T))
    return mean, basis[:, :LATENT_CHANNELS], variances[:LATENT_CHANNELS]


def _linear(conv: Any, matrix: Tensor, bias: Tensor) -> None:
    """Make a causal convolution apply ``matrix`` [out, in] at its current frame and centre pixel."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    time, height, width = conv.weight.shape[2:]
    conv.weight[: matrix.shape[0], : matrix.shape[1], time - 1, height // 2, width // 2] = matrix
    conv.bias[: len(bias)] = bias


def _spread(conv: Any, matrix: Tensor, bias: Tensor) -> None:
    """features -> [+Mx, -Mx, constant]."""
    _linear(conv, torch.cat([matrix, -matrix]), torch.cat([bias, -bias, torch.tensor([_CONSTANT])]))


def _gather(norm: Any, conv: Any, matrix: Tensor, bias: Tensor) -> None:
    """[+x, -x, constant] -> norm (undone) -> SiLU -> Mx."""
    norm.gamma.fill_(_CONSTANT / BASE_DIM**0.5)
    _linear(conv, torch.cat([matrix, -matrix], 1), bias)


@torch.no_grad()
def build_vae(seed: int = 0) -> AutoencoderKLWan:
    """The whole VAE: spatial factor 4, no temporal compression, 34-39 dB on its own clips."""
    mean, basis, variances = principal_components(np.random.default_rng(seed))
    scale = variances.sqrt().sqrt()  # half-whitened: the structure of the spectrum survives, at unit mean variance
    scale = scale * (variances / scale**2).mean().sqrt()
    patch_dim = 3 * PATCH_PX**2
    vae = AutoencoderKLWan(
        base_dim=BASE_DIM,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1],
        num_res_blocks=1,
        temperal_downsample=[],
        patch_size=PATCH_PX,
        in_channels=patch_dim,
        out_channels=patch_dim,
        scale_factor_spatial=PATCH_PX,
        scale_factor_temporal=1,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[round(float(s), 5) for s in scale],
    ).eval()
    for module in vae.modules():
        last = module.conv2 if isinstance(module, WanResidualBlock) else None
        last = module.proj if isinstance(module, WanAttentionBlock) else last
        if last is not None:
            last.weight.zero_()
            last.bias.zero_()
    eye, zero = torch.eye(LATENT_CHANNELS), torch.zeros(LATENT_CHANNELS)
    _spread(vae.encoder.conv_in, basis.T, -(basis.T @ mean))
    _gather(vae.encoder.norm_out, vae.encoder.conv_out, eye, zero)
    _linear(vae.quant_conv, eye, torch.cat([zero, torch.full_like(zero, -12.0)]))  # log-variance: deterministic
    _linear(vae.post_quant_conv, eye, zero)
    _spread(vae.decoder.conv_in, eye, zero)
    _gather(vae.decoder.norm_out, vae.decoder.conv_out, basis, mean)
    return vae


class LatentEncoder:
    """The VAE's encoder as the one matrix it is."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        conv = vae.encoder.conv_in
        self.matrix = conv.weight[:LATENT_CHANNELS, :, -1, 1, 1].detach().clone()
        self.bias = conv.bias[:LATENT_CHANNELS].detach().clone()
        self.std = torch.tensor(vae.config.latents_std)

    def __call__(self, videos: Tensor) -> Tensor:
        """uint8 videos [B, 3, T, 48, 48] -> scaled latents [B, 16, T, 12, 12]."""
        rows = patchify(to_unit(videos), PATCH_PX).movedim(1, -1)
        return ((rows @ self.matrix.T + self.bias) / self.std).movedim(-1, 1)
