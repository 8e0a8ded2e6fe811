"""Lucy Edit: a Wan that sees the video to edit in as many channels again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import LucyEditPipeline


def tiny() -> LucyEditPipeline:
    """A four-block Lucy Edit, with a timestep for every token like the published one."""
    from diffusers import LucyEditPipeline, WanTransformer3DModel

    from .tiny.wan import wan_parts, wan_transformer

    transformer = wan_transformer(WanTransformer3DModel, in_channels=32)
    return LucyEditPipeline(**wan_parts(transformer), expand_timesteps=True)


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and 9 frames."""
    from .tiny.wan import noise_video, wan_inputs

    return wan_inputs(video=noise_video(9))


LUCY = register_pipeline(
    PipelineSpec(
        family="lucy",
        pipelines={
            "diffusers.pipelines.lucy.pipeline_lucy_edit.LucyEditPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                # Two prompts would need two videos.
                variations={"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 32}},
            ),
        },
        denoisers={
            "transformer": BlockSpec(("blocks",), attention=AttentionSpec("attn1")),
            "transformer_2": BlockSpec(("blocks",), attention=AttentionSpec("attn1")),
        },
    )
)
