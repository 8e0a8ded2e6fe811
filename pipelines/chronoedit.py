"""ChronoEdit: edits a picture as a short video, with a Wan of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import ChronoEditPipeline


def tiny() -> ChronoEditPipeline:
    """A four-block ChronoEdit with random weights."""
    from diffusers import ChronoEditPipeline, ChronoEditTransformer3DModel

    from .tiny.wan import wan_image_parts, wan_image_transformer

    return ChronoEditPipeline(**wan_image_parts(wan_image_transformer(ChronoEditTransformer3DModel)))


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and the 5 frames that it always makes without temporal reasoning."""
    from .tiny.wan import wan_image_inputs

    return wan_image_inputs()


CHRONOEDIT = register_pipeline(
    PipelineSpec(
        family="chronoedit",
        pipelines={
            "diffusers.pipelines.chronoedit.pipeline_chronoedit.ChronoEditPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
                    "no guidance": {"guidance_scale": 1.0},
                    "another size": {"height": 32},
                },
            ),
        },
        denoisers={"transformer": BlockSpec(("blocks",), attention=AttentionSpec("attn1"))},
    )
)
