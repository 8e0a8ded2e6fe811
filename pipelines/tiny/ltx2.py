"""Parts of the tiny LTX-2 pipelines: transformer, text connectors, video and audio autoencoders, vocoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors, LTX2Vocoder

from .gemma import NUM_LAYERS, gemma3
from .text import TEXT_DIM, word_tokenizer

CHANNELS = 8
TEMPORAL_RATIO = 2
SPATIAL_RATIO = 32
AUDIO_LATENT_CHANNELS = 2
_NUM_HEADS = 2
_VIDEO_DIM = 24
_AUDIO_DIM = 16
_MEL_BINS = 8
_AUDIO_CHANNELS = AUDIO_LATENT_CHANNELS * _MEL_BINS // 4  # the autoencoder has 4 times fewer bins


def ltx2_parts(**config: Any) -> dict[str, Any]:
    """All components but the scheduler; `config` changes the transformer."""
    torch.manual_seed(0)
    return {
        "transformer": _transformer(**config),
        "connectors": _connectors(),
        "vae": _vae(),
        "audio_vae": _audio_vae(),
        "vocoder": _vocoder(),
        "tokenizer": word_tokenizer(),
        "text_encoder": gemma3(),
    }


def ltx2_5_parts() -> dict[str, Any]:
    """The same with the transformer of LTX-2.5, which knows generated keyframes."""
    parts = ltx2_parts(ff_bias=False, use_prompt_adaln_single=False, use_keyframes_abs_pos_embedding=True)
    torch.nn.init.normal_(parts["transformer"].keyframes_abs_pos_embedding, std=0.2)  # zeros at first
    return parts


def _transformer(**config: Any) -> LTX2VideoTransformer3DModel:
    """Four blocks with the options of LTX-2.3, among them the attention that spatio-temporal guidance perturbs."""
    options = {
        "vae_scale_factors": (TEMPORAL_RATIO, SPATIAL_RATIO, SPATIAL_RATIO),
        "gated_attn": True,
        "cross_attn_mod": True,
        "audio_gated_attn": True,
        "audio_cross_attn_mod": True,
        "use_prompt_embeddings": False,
        "perturbed_attn": True,
        "rope_type": "split",
        **config,
    }
    return LTX2VideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=_NUM_HEADS,
        attention_head_dim=_VIDEO_DIM // _NUM_HEADS,
        cross_attention_dim=_VIDEO_DIM,
        audio_in_channels=_AUDIO_CHANNELS,
        audio_out_channels=_AUDIO_CHANNELS,
        audio_num_attention_heads=_NUM_HEADS,
        audio_attention_head_dim=_AUDIO_DIM // _NUM_HEADS,
        audio_cross_attention_dim=_AUDIO_DIM,
        num_layers=4,
        caption_channels=TEXT_DIM,
        **options,
    ).eval()


def _connectors() -> LTX2TextConnectors:
    """One layer for each of video and audio; registers fill the padding of a prompt."""
    return LTX2TextConnectors(
        caption_channels=TEXT_DIM,
        text_proj_in_factor=NUM_LAYERS + 1,
        video_connector_num_attention_heads=_NUM_HEADS,
        video_connector_attention_head_dim=_VIDEO_DIM // _NUM_HEADS,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=4,
        video_gated_attn=True,
        audio_connector_num_attention_heads=_NUM_HEADS,
        audio_connector_attention_head_dim=_AUDIO_DIM // _NUM_HEADS,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=4,
        audio_gated_attn=True,
        rope_type="split",
        per_modality_projections=True,
        video_hidden_dim=_VIDEO_DIM,
        audio_hidden_dim=_AUDIO_DIM,
        proj_bias=True,
    ).eval()


def _vae() -> AutoencoderKLLTX2Video:
    """Shrinks space by 32, as the published one does, and time by 2."""
    return AutoencoderKLLTX2Video(
        latent_channels=CHANNELS,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(True,),
        upsample_factor=(2,),
        patch_size=SPATIAL_RATIO // 2,
    ).eval()


def _audio_vae() -> AutoencoderKLLTX2Audio:
    """Four channels a token; about 25 tokens a second, as in the published one."""
    return AutoencoderKLLTX2Audio(
        base_channels=_AUDIO_CHANNELS,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=AUDIO_LATENT_CHANNELS,
        mel_bins=_MEL_BINS,
    ).eval()


def _vocoder() -> LTX2Vocoder:
    return LTX2Vocoder(
        in_channels=2 * _MEL_BINS,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    ).eval()


def temporal_upsampler(seed: int = 2) -> LTX2LatentUpsamplerModel:
    """Doubles the frame rate of latents."""
    torch.manual_seed(seed)
    return LTX2LatentUpsamplerModel(
        in_channels=CHANNELS,
        mid_channels=32,  # as many as the groups of its norms
        num_blocks_per_stage=1,
        spatial_upsample=False,
        temporal_upsample=True,
    ).eval()
