"""Helios: a video made chunk by chunk, each with the frames before it as history tokens; plain and pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import HeliosPipeline, HeliosPyramidPipeline

_STAGES = 2


def tiny() -> HeliosPipeline:
    """A four-block Helios that works at one resolution."""
    from diffusers import HeliosPipeline, HeliosScheduler

    scheduler = HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    return HeliosPipeline(**{**_parts(), "scheduler": scheduler})


def tiny_pyramid() -> HeliosPyramidPipeline:
    """A four-block Helios that begins every chunk at half the resolution."""
    from diffusers import HeliosPyramidPipeline, HeliosScheduler

    # The default gamma, 1/3, makes the covariance of the renoising singular, and not every LAPACK forgives that.
    scheduler = HeliosScheduler(stages=_STAGES, stage_range=[0, 1 / 2, 1], gamma=0.33, use_dynamic_shifting=True)
    return HeliosPyramidPipeline(**{**_parts(), "scheduler": scheduler}, is_cfg_zero_star=True)


def _parts() -> dict[str, Any]:
    """All components, with a scheduler that is to be replaced."""
    import torch
    from diffusers import HeliosTransformer3DModel

    from .tiny.text import TEXT_DIM
    from .tiny.wan import wan_parts

    torch.manual_seed(0)
    transformer = HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        rope_dim=(4, 4, 4),
    )
    return wan_parts(transformer.eval())


def tiny_inputs() -> dict[str, Any]:
    """Two chunks of 5 frames."""
    from .tiny.wan import wan_inputs

    return wan_inputs(num_frames=10, num_latent_frames_per_chunk=2, history_sizes=[4, 2, 1])


def tiny_pyramid_inputs() -> dict[str, Any]:
    """The same, large enough to be halved: diffusers fails on a first stage of one token a frame."""
    return {**tiny_inputs(), "height": 64, "width": 64}


def pyramid_steps(num_steps: int) -> dict[str, Any]:
    """``num_steps`` steps in each stage: every stage has a grid of its own."""
    return {"pyramid_num_inference_steps_list": [num_steps] * _STAGES}


_TWO_PROMPTS = {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]}
_NO_GUIDANCE = {"guidance_scale": 1.0}

HELIOS = register_pipeline(
    PipelineSpec(
        family="helios",
        pipelines={
            "diffusers.pipelines.helios.pipeline_helios.HeliosPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": _TWO_PROMPTS,
                    "no guidance": _NO_GUIDANCE,
                    "another size": {"height": 32},
                },
            ),
            "diffusers.pipelines.helios.pipeline_helios_pyramid.HeliosPyramidPipeline": TinyPipeline(
                tiny_pyramid,
                tiny_pyramid_inputs,
                steps=pyramid_steps,
                variations={
                    "batch of two": _TWO_PROMPTS,
                    "no guidance": _NO_GUIDANCE,
                    "another size": {"height": 96},
                },
            ),
        },
        denoisers={"transformer": BlockSpec(("blocks",), attention=AttentionSpec("attn1"))},
    )
)
