"""Cosmos Predict 2.5 and Cosmos Transfer 2.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_accel.registry import register_pipeline
from dit_accel.specs import AttentionSpec, BlockSpec, PipelineSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import Cosmos2_5_PredictBasePipeline, Cosmos2_5_TransferPipeline
    from PIL.Image import Image


def tiny_predict() -> Cosmos2_5_PredictBasePipeline:
    """A four-block Cosmos Predict 2.5 with random weights."""
    from diffusers import Cosmos2_5_PredictBasePipeline

    from .tiny.cosmos import cosmos_transformer

    return Cosmos2_5_PredictBasePipeline(
        **_common_parts(), transformer=cosmos_transformer(in_channels=17, **_text_projection())
    )


def tiny_transfer() -> Cosmos2_5_TransferPipeline:
    """A four-block Cosmos Transfer 2.5 whose controlnet gives hints to the first and the third block."""
    from diffusers import Cosmos2_5_TransferPipeline

    from .tiny.cosmos import HIDDEN_SIZE, cosmos_controlnet, cosmos_transformer

    shared = {**_text_projection(), "img_context_dim_in": 8, "img_context_dim_out": HIDDEN_SIZE}
    return Cosmos2_5_TransferPipeline(
        **_common_parts(),
        transformer=cosmos_transformer(in_channels=17, controlnet_block_every_n=2, img_context_num_tokens=4, **shared),
        controlnet=cosmos_controlnet(**shared),
    )


def _common_parts() -> dict[str, Any]:
    from diffusers import UniPCMultistepScheduler

    from .tiny.cosmos import PassingSafetyChecker, wan_vae
    from .tiny.qwen import qwen25_vl_model, qwen_tokenizer

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        use_karras_sigmas=True,
        sigma_max=200.0,
        sigma_min=0.01,
    )
    return {
        "tokenizer": qwen_tokenizer(),
        "text_encoder": qwen25_vl_model(num_layers=2),
        "vae": wan_vae(),
        "scheduler": scheduler,
        "safety_checker": PassingSafetyChecker(),
    }


def _text_projection() -> dict[str, Any]:
    """Prompt embeddings are the states of both text layers side by side."""
    from .tiny.text import TEXT_DIM

    return {
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": 2 * TEXT_DIM,
        "encoder_hidden_states_channels": TEXT_DIM,
        "rope_scale": (1.0, 3.0, 3.0),
    }


def _inputs() -> dict[str, Any]:
    """16 × 16 pixels and 9 frames; the prompt stands behind a system prompt of 20 tokens."""
    from .tiny.text import PROMPT

    return {
        "prompt": PROMPT,
        "negative_prompt": "bad quality",
        "height": 16,
        "width": 16,
        "num_frames": 9,
        "guidance_scale": 4.0,
        "max_sequence_length": 40,
    }


def tiny_predict_inputs() -> dict[str, Any]:
    """A call that continues the last of five frames."""
    return {**_inputs(), "video": _frames(5), "num_latent_conditional_frames": 1}


def tiny_transfer_inputs() -> dict[str, Any]:
    """A call that follows a control video, in one chunk."""
    return {**_inputs(), "controls": _frames(9), "num_frames_per_chunk": 9}


def _frames(number: int) -> list[Image]:
    from .tiny.pictures import noise_image

    return [noise_image(16, 16, seed=index) for index in range(number)]


PROMPTS = ["a red seven moving left on navy", "a cyan one spinning on black"]
VARIATIONS: dict[str, dict[str, Any]] = {"no guidance": {"guidance_scale": 1.0}, "another size": {"height": 32}}
_MODULE = "diffusers.pipelines.cosmos.pipeline_cosmos2_5_"

COSMOS2_5 = register_pipeline(
    PipelineSpec(
        family="cosmos2.5",
        pipelines={
            _MODULE + "predict.Cosmos2_5_PredictBasePipeline": TinyPipeline(
                tiny_predict,
                tiny_predict_inputs,
                # several prompts only without a video to continue
                variations={"batch of two": {"prompt": PROMPTS, "video": None}, **VARIATIONS},
            ),
            _MODULE + "transfer.Cosmos2_5_TransferPipeline": TinyPipeline(
                tiny_transfer,
                tiny_transfer_inputs,
                variations={"batch of two": {"prompt": PROMPTS}, **VARIATIONS},
            ),
        },
        denoisers={"transformer": BlockSpec(("transformer_blocks",), attention=AttentionSpec("attn1"))},
    )
)
