"""AnyFlow: flow-map models that take any number of steps; all frames at once, or chunk by chunk over a KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import AnyFlowFARPipeline, AnyFlowPipeline, ModelMixin


def tiny() -> AnyFlowPipeline:
    """A four-block AnyFlow that denoises all frames together."""
    from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel

    from .tiny.wan import wan_transformer

    return AnyFlowPipeline(**_parts(wan_transformer(AnyFlowTransformer3DModel)))


def tiny_far() -> AnyFlowFARPipeline:
    """A four-block AnyFlow that keeps one chunk before the current one in full and all earlier ones compressed."""
    from diffusers import AnyFlowFARPipeline, AnyFlowFARTransformer3DModel

    from .tiny.wan import wan_transformer

    transformer = wan_transformer(AnyFlowFARTransformer3DModel, full_chunk_limit=2, chunk_partition=(1, 1, 1))
    return AnyFlowFARPipeline(**_parts(transformer))


def _parts(transformer: ModelMixin) -> dict[str, Any]:
    """All components, with the scheduler of both."""
    from diffusers import FlowMapEulerDiscreteScheduler

    from .tiny.wan import wan_parts

    return {**wan_parts(transformer), "scheduler": FlowMapEulerDiscreteScheduler(shift=5.0)}


def tiny_inputs() -> dict[str, Any]:
    """A call of 9 frames."""
    from .tiny.wan import wan_inputs

    return wan_inputs(num_frames=9)


def tiny_far_inputs() -> dict[str, Any]:
    """The same, large enough for one token a frame after compression."""
    return {**tiny_inputs(), "height": 32, "width": 32}


_TWO_PROMPTS = {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]}
_NO_GUIDANCE = {"guidance_scale": 1.0}

ANYFLOW = register_pipeline(
    PipelineSpec(
        family="anyflow",
        pipelines={
            "diffusers.pipelines.anyflow.pipeline_anyflow.AnyFlowPipeline": TinyPipeline(
                tiny,
                tiny_inputs,
                variations={
                    "batch of two": _TWO_PROMPTS,
                    "no guidance": _NO_GUIDANCE,
                    "another size": {"height": 32},
                },
            ),
        },
        denoisers={"transformer": BlockSpec(("blocks",), attention=AttentionSpec("attn1"))},
    )
)

ANYFLOW_FAR = register_pipeline(
    PipelineSpec(
        family="anyflow-far",
        pipelines={
            "diffusers.pipelines.anyflow.pipeline_anyflow_far.AnyFlowFARPipeline": TinyPipeline(
                tiny_far,
                tiny_far_inputs,
                variations={
                    "batch of two": _TWO_PROMPTS,
                    "no guidance": _NO_GUIDANCE,
                    "another size": {"height": 64},
                },
            ),
        },
        # Only the call on finished chunks writes the KV cache for those to come, and must run. A denoising
        # call reads the cache and leaves it as it is.
        denoisers={
            "transformer": BlockSpec(
                ("blocks",),
                compute_when=("kv_cache_flag.is_cache_step",),
                attention="its queries, of one chunk, attend to a cache of the finished ones: fewer queries than keys",
            )
        },
    )
)
