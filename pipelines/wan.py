"""Wan 2.1 and 2.2: text, image and video to video, VACE and Animate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dit_accel.configs import SVG2Config
from dit_accel.registry import register_pipeline
from dit_accel.specs import (
    LEMICA_PRESETS,
    AttentionSpec,
    BlockSpec,
    PipelineSpec,
    TinyPipeline,
    Variant,
    dbcache_presets,
    lemica_presets,
)

if TYPE_CHECKING:
    from diffusers import (
        WanAnimatePipeline,
        WanImageToVideoPipeline,
        WanPipeline,
        WanVACEPipeline,
        WanVideoToVideoPipeline,
    )

_FACE_SIDE = 8  # the least: face pictures are resized to a multiple of what the autoencoder shrinks by


def tiny() -> WanPipeline:
    """A four-block Wan with random weights."""
    from diffusers import WanPipeline, WanTransformer3DModel

    from .tiny.wan import wan_parts, wan_transformer

    return WanPipeline(**wan_parts(wan_transformer(WanTransformer3DModel)))


def tiny_i2v() -> WanImageToVideoPipeline:
    """Image-to-video as in Wan 2.1, with an image encoder."""
    from diffusers import WanImageToVideoPipeline, WanTransformer3DModel

    from .tiny.wan import wan_image_parts, wan_image_transformer

    return WanImageToVideoPipeline(**wan_image_parts(wan_image_transformer(WanTransformer3DModel)))


def tiny_v2v() -> WanVideoToVideoPipeline:
    """Video-to-video."""
    from diffusers import WanTransformer3DModel, WanVideoToVideoPipeline

    from .tiny.wan import wan_parts, wan_transformer

    return WanVideoToVideoPipeline(**wan_parts(wan_transformer(WanTransformer3DModel)))


def tiny_vace() -> WanVACEPipeline:
    """VACE as in Wan 2.2: two denoisers, each adds control hints after its first and its third block."""
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    from .tiny.wan import wan_parts, wan_transformer

    high, low = (wan_transformer(WanVACETransformer3DModel, seed, vace_layers=[0, 2]) for seed in (0, 3))
    return WanVACEPipeline(**wan_parts(high), transformer_2=low, boundary_ratio=0.875)


def tiny_animate() -> WanAnimatePipeline:
    """Animate, whose face adapter adds to what comes out of the first and the third block."""
    from diffusers import WanAnimatePipeline, WanAnimateTransformer3DModel

    from .tiny.wan import wan_image_parts, wan_image_transformer

    transformer = wan_image_transformer(
        WanAnimateTransformer3DModel,
        motion_encoder_channel_sizes={"4": 8, "8": 8},
        motion_encoder_size=_FACE_SIDE,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    return WanAnimatePipeline(**wan_image_parts(transformer))


def tiny_inputs() -> dict[str, Any]:
    """A call of 16 × 16 pixels and 9 frames."""
    from .tiny.wan import wan_inputs

    return wan_inputs(num_frames=9)


def tiny_i2v_inputs() -> dict[str, Any]:
    """The same with a first frame."""
    from .tiny.wan import wan_image_inputs

    return wan_image_inputs(num_frames=9)


def tiny_v2v_inputs() -> dict[str, Any]:
    """The same from a video, so noisy that of 8 steps the last 7 run."""
    from .tiny.wan import noise_video, wan_inputs

    return wan_inputs(video=noise_video(9), strength=0.9)


def tiny_vace_inputs() -> dict[str, Any]:
    """The same with a video to keep in part and a reference picture, which is one more latent frame."""
    from .tiny.pictures import noise_image
    from .tiny.wan import SIDE, noise_video, wan_inputs

    video = noise_video(9)
    mask = [frame.convert("L") for frame in reversed(video)]
    return wan_inputs(num_frames=9, video=video, mask=mask, reference_images=[noise_image(SIDE, SIDE, seed=9)])


def tiny_animate_inputs() -> dict[str, Any]:
    """9 frames as two segments of 5 that overlap by one, each with the picture as one more latent frame."""
    from .tiny.wan import noise_video, wan_image_inputs

    return wan_image_inputs(pose_video=noise_video(9), face_video=noise_video(9, _FACE_SIDE), segment_frame_length=5)


_VARIATIONS: dict[str, dict[str, Any]] = {
    "batch of two": {"prompt": ["a red seven moving left on navy", "a cyan one spinning on black"]},
    "no guidance": {"guidance_scale": 1.0},
    "another size": {"height": 32},
}
_MODULE = "diffusers.pipelines.wan.pipeline_wan"

# 324 tokens: clusters of a few, and masked dense attention is faster than a loop over them.
_DIGITS_SVG2 = SVG2Config(
    top_p=0.84, num_q_centroids=54, num_k_centroids=108, min_kept_ratio=0.3, min_tokens=0, backend="reference"
)

WAN = register_pipeline(
    PipelineSpec(
        family="wan",
        pipelines={
            _MODULE + ".WanPipeline": TinyPipeline(tiny, tiny_inputs, variations=_VARIATIONS),
            _MODULE + "_i2v.WanImageToVideoPipeline": TinyPipeline(tiny_i2v, tiny_i2v_inputs, variations=_VARIATIONS),
            _MODULE + "_video2video.WanVideoToVideoPipeline": TinyPipeline(
                tiny_v2v, tiny_v2v_inputs, variations=_VARIATIONS
            ),
            _MODULE + "_vace.WanVACEPipeline": TinyPipeline(
                tiny_vace,
                tiny_vace_inputs,
                # It takes one prompt, and the size of a video before the one that is asked for.
                variations={
                    "no guidance": _VARIATIONS["no guidance"],
                    "another size": {"height": 32, "video": None, "mask": None},
                },
            ),
            _MODULE + "_animate.WanAnimatePipeline": TinyPipeline(
                tiny_animate, tiny_animate_inputs, variations=_VARIATIONS
            ),
        },
        denoisers={
            "transformer": BlockSpec(("blocks",), attention=AttentionSpec("attn1")),
            "transformer_2": BlockSpec(("blocks",), attention=AttentionSpec("attn1")),
        },
        variants=(
            Variant(
                name="digits-wan",
                denoiser_config={"num_layers": 12, "num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 64},
                # Chosen on prompts that no report uses. A first-order forecast suits this model.
                presets={
                    **lemica_presets("digits-wan", (*LEMICA_PRESETS, "lemica-turbo", "planned-slow", "planned-fast")),
                    **dbcache_presets(slow=0.06, medium=0.08, fast=0.10, forecast="taylor1"),
                    "svg2": lambda: (_DIGITS_SVG2,),
                    "svg2-turbo": lambda: (replace(_DIGITS_SVG2, top_p=0.66, min_kept_ratio=0.25, dense_steps=0.1),),
                },
                pipelines=("WanPipeline",),
            ),
            Variant(
                name="wan2.1-t2v-1.3b",
                denoiser_config={"num_layers": 30, "num_attention_heads": 12, "in_channels": 16, "image_dim": None},
                presets=lemica_presets("wan2.1-t2v-1.3b"),
                pipelines=("WanPipeline",),
            ),
            Variant(
                name="wan2.1-t2v-14b",
                denoiser_config={"num_layers": 40, "num_attention_heads": 40, "in_channels": 16, "image_dim": None},
                presets=lemica_presets("wan2.1-t2v-14b"),
                pipelines=("WanPipeline",),
            ),
            Variant(
                name="wan2.1-i2v-14b",
                # Of the same code: the one that draws between a first and a last frame has pos_embed_seq_len, and
                # Wan 2.2 has no image_dim.
                denoiser_config={
                    "num_layers": 40,
                    "num_attention_heads": 40,
                    "in_channels": 36,
                    "image_dim": 1280,
                    "pos_embed_seq_len": None,
                },
                presets=lemica_presets("wan2.1-i2v-14b"),
                pipelines=("WanImageToVideoPipeline",),
            ),
        ),
    )
)
