"""Kandinsky 6.0: video with audio from text or a picture, and video super-resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import Kandinsky6SRPipeline, Kandinsky6TI2VAPipeline

_AUDIO_CHANNELS = 8
_MEL_BINS = 8
_SR_CHANNELS = 4
_SR_GRID = 3


def tiny() -> Kandinsky6TI2VAPipeline:
    """A pipeline with four fused video and audio blocks and random weights."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky6TI2VAPipeline, Kandinsky6Transformer3DModel

    from .tiny.kandinsky import POOLED_DIM, hunyuan_vae, kandinsky_text_parts
    from .tiny.text import TEXT_DIM

    torch.manual_seed(0)
    transformer = Kandinsky6Transformer3DModel(
        in_text_dim=TEXT_DIM,
        in_text_dim2=POOLED_DIM,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=(4, 4, 4),
        in_audio_dim=_AUDIO_CHANNELS,
        out_audio_dim=_AUDIO_CHANNELS,
        text_token_padding=True,
        ca_rope=True,
        cross_gates=True,
        fix_modulation=True,
        visual_token_type_num_embeddings=2,
    )
    return Kandinsky6TI2VAPipeline(
        transformer=transformer.eval(),
        vae=hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        **_audio_parts(),
        **kandinsky_text_parts(),
    )


def _audio_parts() -> dict[str, Any]:
    """The audio autoencoder and the vocoder, 64 samples a mel frame."""
    from diffusers import MMAudioVAE, MMAudioVocoder

    audio_vae = MMAudioVAE(
        mel_bins=_MEL_BINS,
        latent_channels=_AUDIO_CHANNELS,
        hidden_channels=8,
        channel_multipliers=(1, 1),
        layers_per_block=1,
        sample_rate=1600,
        n_fft=128,
        hop_length=64,
    )
    vocoder = MMAudioVocoder(
        num_mels=_MEL_BINS,
        upsample_initial_channel=8,
        upsample_rates=(8, 8),
        upsample_kernel_sizes=(16, 16),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
    )
    return {"audio_vae": audio_vae.eval(), "vocoder": vocoder.eval()}


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 32 pixels and 9 frames, with audio."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": 16,
        "width": 32,
        "num_frames": 9,
        "guidance_scale": 5.0,
        "max_sequence_length": 16,
    }


def tiny_sr() -> Kandinsky6SRPipeline:
    """A super-resolution pipeline with four blocks, tiles of 16 × 16 pixels and random weights."""
    import torch
    from diffusers import Kandinsky6SRPipeline, Kandinsky6SRTransformer3DModel, Kandinsky6SRVAE, PiflowScheduler

    torch.manual_seed(0)
    transformer = Kandinsky6SRTransformer3DModel(
        in_visual_dim=_SR_CHANNELS,
        out_visual_dim=_SR_GRID * _SR_CHANNELS,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_visual_blocks=4,
        axes_dims=(4, 4, 4),
        tile_sizes=((16, 16),),
    )
    vae = Kandinsky6SRVAE(
        latent_channels=_SR_CHANNELS,
        encoder_block_out_channels=(4, 8),
        decoder_block_out_channels=(4, 8),
        layers_per_block=1,
        temporal_compression_ratio=2,
        temporal_compression_start_level=0,
    )
    return Kandinsky6SRPipeline(
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=PiflowScheduler(n_grid=_SR_GRID, num_policy_substeps=16),
    )


def tiny_sr_inputs() -> dict[str, Any]:
    """A call that doubles a video of 8 × 12 pixels and 3 frames, in two tiles."""
    from .tiny.pictures import noise_image

    return {"video": [noise_image(8, 12, seed) for seed in range(3)], "resolution_scale": 2, "output_type": "np"}


KANDINSKY6 = register_pipeline(
    PipelineSpec(
        family="kandinsky6",
        pipelines={
            "diffusers.pipelines.kandinsky6.pipeline_kandinsky6_ti2va.Kandinsky6TI2VAPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
                    "no guidance": {"guidance_scale": 1.0},
                    "another size": {"height": 32},
                    "without audio": {"sample_audio": False},
                },
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("visual_transformer_blocks",),
                ("vis", "aud"),
                attention=AttentionSpec("video_dec_block.self_attention"),
            )
        },
    )
)

KANDINSKY6_SR = register_pipeline(
    PipelineSpec(
        family="kandinsky6-sr",
        pipelines={
            "diffusers.pipelines.kandinsky6.pipeline_kandinsky6_sr.Kandinsky6SRPipeline": TinyPipeline(
                tiny_sr, tiny_sr_inputs, variations={"batch of two": {"tiles_batch_size": 2}}
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("visual_transformer_blocks",), attention="its self-attention is block-sparse already (NABLA)"
            )
        },
    )
)
