"""Kandinsky 5.0 text- and image-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import Kandinsky5I2VPipeline, Kandinsky5T2VPipeline, Kandinsky5Transformer3DModel


def _transformer() -> Kandinsky5Transformer3DModel:
    """One text block and four visual blocks."""
    import torch
    from diffusers import Kandinsky5Transformer3DModel

    from .tiny.kandinsky import POOLED_DIM
    from .tiny.text import TEXT_DIM

    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        out_visual_dim=16,
        in_text_dim=TEXT_DIM,
        in_text_dim2=POOLED_DIM,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=(4, 4, 4),
        visual_cond=True,
    )
    for name, parameter in transformer.named_parameters():
        # Made as zeros: no block would do anything.
        if "modulation.out_layer" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return transformer.eval()


def _parts() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from .tiny.kandinsky import hunyuan_vae, kandinsky_text_parts

    return {
        "transformer": _transformer(),
        "vae": hunyuan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        **kandinsky_text_parts(),
    }


def tiny_t2v() -> Kandinsky5T2VPipeline:
    """A text-to-video pipeline with four visual blocks and random weights."""
    from diffusers import Kandinsky5T2VPipeline

    return Kandinsky5T2VPipeline(**_parts())


def tiny_i2v() -> Kandinsky5I2VPipeline:
    """An image-to-video pipeline with four visual blocks and random weights."""
    from diffusers import Kandinsky5I2VPipeline

    return Kandinsky5I2VPipeline(**_parts())


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 32 pixels and 9 frames."""
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


def tiny_image_inputs() -> dict[str, Any]:
    """The same with a first frame."""
    from .tiny.pictures import noise_image

    # The first four latent frames are normalised at the end by the ones that follow, so there have to be some.
    return {**tiny_inputs(), "image": noise_image(16, 32), "num_frames": 21}


_VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
    "no guidance": {"guidance_scale": 1.0},
    "another size": {"height": 32},
}

KANDINSKY5 = register_pipeline(
    PipelineSpec(
        family="kandinsky5",
        pipelines={
            "diffusers.pipelines.kandinsky5.pipeline_kandinsky.Kandinsky5T2VPipeline": TinyPipeline(
                tiny_t2v, tiny_inputs, variations=_VARIATIONS
            ),
            "diffusers.pipelines.kandinsky5.pipeline_kandinsky_i2v.Kandinsky5I2VPipeline": TinyPipeline(
                tiny_i2v, tiny_image_inputs, variations=_VARIATIONS
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("visual_transformer_blocks",), ("visual_embed",), attention=AttentionSpec("self_attention")
            )
        },
    )
)
