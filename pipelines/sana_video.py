"""SANA-Video text- and image-to-video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import SanaImageToVideoPipeline, SanaVideoPipeline

_FLOW_SHIFT = 8.0


def _parts() -> dict[str, Any]:
    """All components but the scheduler."""
    import torch
    from diffusers import SanaVideoTransformer3DModel

    from .tiny.cosmos import wan_vae
    from .tiny.gemma2 import gemma2_encoder
    from .tiny.text import TEXT_DIM, word_tokenizer

    torch.manual_seed(0)
    transformer = SanaVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_DIM,
        rope_max_seq_len=32,
    )
    return {
        "tokenizer": word_tokenizer(),
        "text_encoder": gemma2_encoder(),
        "transformer": transformer.eval(),
        "vae": wan_vae(),
    }


def tiny_t2v() -> SanaVideoPipeline:
    """A four-block text-to-video pipeline with random weights."""
    from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=_FLOW_SHIFT
    )
    return SanaVideoPipeline(scheduler=scheduler, **_parts())


def tiny_i2v() -> SanaImageToVideoPipeline:
    """A four-block image-to-video pipeline with random weights."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline

    return SanaImageToVideoPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=_FLOW_SHIFT), **_parts())


def tiny_inputs() -> dict[str, Any]:
    """A call of 32 × 32 pixels and 9 frames."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "height": 32,
        "width": 32,
        "frames": 9,
        "guidance_scale": 6.0,
        "max_sequence_length": 16,
        "complex_human_instruction": None,
        "use_resolution_binning": False,  # it would change the size to 480p
    }


def tiny_image_inputs() -> dict[str, Any]:
    """The same with a first frame."""
    from .tiny.pictures import noise_image

    return {"image": noise_image(32, 32), **tiny_inputs()}


_NO_GUIDANCE = {"guidance_scale": 1.0}
_ANOTHER_SIZE = {"height": 64}
_TWO_PROMPTS = {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]}
_VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": _TWO_PROMPTS,
    "no guidance": _NO_GUIDANCE,
    "another size": _ANOTHER_SIZE,
}

SANA_VIDEO = register_pipeline(
    PipelineSpec(
        family="sana-video",
        pipelines={
            "diffusers.pipelines.sana_video.pipeline_sana_video.SanaVideoPipeline": TinyPipeline(
                tiny_t2v, tiny_inputs, variations=_VARIATIONS
            ),
            "diffusers.pipelines.sana_video.pipeline_sana_video_i2v.SanaImageToVideoPipeline": TinyPipeline(
                tiny_i2v, tiny_image_inputs, variations=_VARIATIONS
            ),
        },
        denoisers={
            "transformer": BlockSpec(
                ("transformer_blocks",),
                attention="its self-attention is linear: there are no query-key pairs to leave out",
            )
        },
    )
)
