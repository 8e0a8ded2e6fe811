"""Cosmos Predict 1 and 2: text-to-world, video-to-world and text-to-image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import (
        Cosmos2TextToImagePipeline,
        Cosmos2VideoToWorldPipeline,
        CosmosTextToWorldPipeline,
        CosmosVideoToWorldPipeline,
    )


def tiny_text_to_world() -> CosmosTextToWorldPipeline:
    """Cosmos 1 from text."""
    from diffusers import CosmosTextToWorldPipeline

    return CosmosTextToWorldPipeline(**_cosmos1_parts(in_channels=16))


def tiny_video_to_world() -> CosmosVideoToWorldPipeline:
    """Cosmos 1 from an image or a video; the mask of the given frames is one more channel."""
    from diffusers import CosmosVideoToWorldPipeline

    return CosmosVideoToWorldPipeline(**_cosmos1_parts(in_channels=17))


def tiny_text_to_image2() -> Cosmos2TextToImagePipeline:
    """Cosmos 2 for still images."""
    from diffusers import Cosmos2TextToImagePipeline

    return Cosmos2TextToImagePipeline(**_cosmos2_parts(in_channels=16))


def tiny_video_to_world2() -> Cosmos2VideoToWorldPipeline:
    """Cosmos 2 from an image or a video; the mask of the given frames is one more channel."""
    from diffusers import Cosmos2VideoToWorldPipeline

    return Cosmos2VideoToWorldPipeline(**_cosmos2_parts(in_channels=17))


def _cosmos1_parts(in_channels: int) -> dict[str, Any]:
    """Cosmos 1 samples as in EDM and has a learned position embedding that every block adds again."""
    from diffusers import EDMEulerScheduler

    from .tiny.cosmos import cosmos_transformer, cosmos_vae

    return {
        **_common_parts(),
        "transformer": cosmos_transformer(in_channels, extra_pos_embed_type="learnable"),
        "vae": cosmos_vae(),
        "scheduler": EDMEulerScheduler(final_sigmas_type="sigma_min"),
    }


def _cosmos2_parts(in_channels: int) -> dict[str, Any]:
    """Cosmos 2 has a flow scheduler on a Karras grid and the autoencoder of Wan."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from .tiny.cosmos import cosmos_transformer, wan_vae

    return {
        **_common_parts(),
        "transformer": cosmos_transformer(in_channels),
        "vae": wan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    }


def _common_parts() -> dict[str, Any]:
    from .tiny.cosmos import PassingSafetyChecker
    from .tiny.text import t5_encoder, word_tokenizer

    return {"tokenizer": word_tokenizer(), "text_encoder": t5_encoder(), "safety_checker": PassingSafetyChecker()}


def tiny_image_inputs() -> dict[str, Any]:
    """A still of 32 × 32 pixels."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": 32,
        "width": 32,
        "guidance_scale": 4.0,
        "max_sequence_length": 16,
    }


def tiny_video_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and 9 frames."""
    return {**tiny_image_inputs(), "height": 16, "width": 16, "num_frames": 9}


def tiny_image_to_video_inputs() -> dict[str, Any]:
    """The same, starting from an image."""
    from .tiny.pictures import noise_image

    return {**tiny_video_inputs(), "image": noise_image(16, 16)}


VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
    "no guidance": {"guidance_scale": 1.0},
    "another size": {"height": 48},
}
_MODULE = "diffusers.pipelines.cosmos.pipeline_"

COSMOS = register_pipeline(
    PipelineSpec(
        family="cosmos",
        pipelines={
            _MODULE + "cosmos_text2world.CosmosTextToWorldPipeline": TinyPipeline(
                tiny_text_to_world, tiny_video_inputs, variations=VARIATIONS
            ),
            _MODULE + "cosmos_video2world.CosmosVideoToWorldPipeline": TinyPipeline(
                tiny_video_to_world, tiny_image_to_video_inputs, variations=VARIATIONS
            ),
            _MODULE + "cosmos2_text2image.Cosmos2TextToImagePipeline": TinyPipeline(
                tiny_text_to_image2, tiny_image_inputs, variations=VARIATIONS
            ),
            _MODULE + "cosmos2_video2world.Cosmos2VideoToWorldPipeline": TinyPipeline(
                tiny_video_to_world2, tiny_image_to_video_inputs, variations=VARIATIONS
            ),
        },
        denoisers={"transformer": BlockSpec(("transformer_blocks",), attention=AttentionSpec("attn1"))},
    )
)
