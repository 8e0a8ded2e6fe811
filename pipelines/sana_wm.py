"""SANA-WM: camera-controlled image-to-video, stage 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import AutoencoderKLLTX2Video, SanaWMPipeline, SanaWMTransformer3DModel

_CHANNELS = 16
_TEMPORAL_STRIDE = 2


def _transformer() -> SanaWMTransformer3DModel:
    """Four blocks, the last with softmax attention."""
    import torch
    from diffusers import SanaWMTransformer3DModel

    from .tiny.text import TEXT_DIM

    transformer = SanaWMTransformer3DModel(
        in_channels=_CHANNELS,
        num_layers=4,
        hidden_size=32,
        num_attention_heads=2,
        linear_head_dim=16,
        chunk_plucker_channels=6 * _TEMPORAL_STRIDE,
        caption_channels=TEXT_DIM,
    )
    for name, parameter in transformer.named_parameters():
        # Made as zeros: without them there is no camera and no linear attention.
        if name.startswith("plucker_embedder") or ".conv_k" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return transformer.eval()


def _vae() -> AutoencoderKLLTX2Video:
    """An LTX-2 autoencoder that shrinks space by 4 and time by 2."""
    from diffusers import AutoencoderKLLTX2Video

    vae = AutoencoderKLLTX2Video(
        latent_channels=_CHANNELS,
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
        patch_size=2,
        temporal_compression_ratio=_TEMPORAL_STRIDE,
    )
    return vae.eval()


def tiny() -> SanaWMPipeline:
    """A four-block SANA-WM with random weights."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMPipeline

    from .tiny.gemma2 import gemma2_encoder
    from .tiny.text import word_tokenizer

    torch.manual_seed(0)
    return SanaWMPipeline(
        transformer=_transformer(),
        vae=_vae(),
        tokenizer=word_tokenizer(),
        text_encoder=gemma2_encoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and 5 frames, camera moving and turning."""
    from .tiny.pictures import noise_image
    from .tiny.text import PROMPT

    return {
        "image": noise_image(16, 16),
        "prompt": PROMPT,
        "action": "wj-4",
        "intrinsics": [16.0, 16.0, 8.0, 8.0],
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "guidance_scale": 5.0,
        "max_sequence_length": 16,
        "chi_prompt": ["the"],  # the default is hundreds of words long
    }


SANA_WM = register_pipeline(
    PipelineSpec(
        family="sana-wm",
        pipelines={
            "diffusers.pipelines.sana_wm.pipeline_sana_wm.SanaWMPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 32}},
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("blocks",),
                streams=("x",),
                attention="most of its blocks have linear attention: there are no query-key pairs to leave out",
            )
        },
    )
)
