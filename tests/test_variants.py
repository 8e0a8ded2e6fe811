"""Which published model a pipeline is, told by its denoiser's configuration, and what it gets for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    HunyuanVideo15Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)

from dit_accel import available_presets, enable_acceleration
from dit_accel.errors import ScheduleMismatchError, UnknownPresetError
from dit_accel.registry import all_specs, find_spec, find_variant
from dit_accel.specs import TinyPipeline

LEMICA = ["lemica-fast", "lemica-medium", "lemica-slow", "lemica-ultra"]
# What the published checkpoints' config.json say, where it differs from the class's defaults (those of 14B T2V).
T2V_1_3B = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
I2V_14B = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
I2V_A14B = {"in_channels": 36}
FIRST_LAST_FRAME = {**I2V_14B, "pos_embed_seq_len": 514}
TI2V_5B = {"num_attention_heads": 24, "num_layers": 30, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336}


def wan(pipeline: Any = WanPipeline, *, experts: int = 1, **config: Any) -> Any:
    """A pipeline around transformers of the full size, without the memory for their weights."""
    with torch.device("meta"):
        transformers = [WanTransformer3DModel(**config) for _ in range(experts)]
    optional = {"transformer_2": transformers[1]} if experts == 2 else {}
    images = {"image_encoder": None, "image_processor": None} if pipeline is WanImageToVideoPipeline else {}
    return pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=transformers[0],
        scheduler=UniPCMultistepScheduler(),
        **images,
        **optional,
    )


def hunyuan(**config: Any) -> Any:
    """The tiny HunyuanVideo 1.5 with a transformer of the full size in it, without the memory for its weights."""
    pipe = tiny("hunyuan-video-1.5", "HunyuanVideo15Pipeline").build()
    with torch.device("meta"):
        pipe.transformer = HunyuanVideo15Transformer3DModel(**config)
    return pipe


def tiny(family: str, pipeline: str) -> TinyPipeline:
    """A spec's tiny pipeline."""
    spec = next(spec for spec in all_specs() if spec.family == family)
    return next(value for name, value in spec.pipelines.items() if name.endswith(f".{pipeline}"))


PUBLISHED = {
    "wan2.1-t2v-1.3b": lambda: wan(**T2V_1_3B),
    "wan2.1-t2v-14b": lambda: wan(),
    "wan2.1-i2v-14b": lambda: wan(WanImageToVideoPipeline, **I2V_14B),
    "hunyuan-video-1.5": lambda: hunyuan(),
}
# Built on the same code, and none of those that the lists were made for.
OTHERS = {
    "Wan 2.2 T2V A14B": lambda: wan(experts=2),
    "Wan 2.2 I2V A14B": lambda: wan(WanImageToVideoPipeline, experts=2, **I2V_A14B),
    "Wan 2.2 TI2V 5B": lambda: wan(**TI2V_5B),
    "Wan 2.1 first and last frame": lambda: wan(WanImageToVideoPipeline, **FIRST_LAST_FRAME),
    "Wan 2.1 video to video": lambda: wan(WanVideoToVideoPipeline, **T2V_1_3B),
    "HunyuanVideo 1.5 MeanFlow": lambda: hunyuan(use_meanflow=True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_gets_the_authors_lists(name: str) -> None:
    pipe = PUBLISHED[name]()
    assert [preset for preset in available_presets(pipe) if preset.startswith("lemica")] == LEMICA
    budgets = []
    for preset in ("lemica-slow", "lemica-medium", "lemica-fast", "lemica-ultra"):
        with enable_acceleration(pipe, preset) as acceleration:
            (config,) = acceleration.configs
            schedule = config.cache_schedule
            assert schedule.provenance["name"] == f"{name}/{preset}"
            assert schedule.provenance["source"] == "published by the authors, not measured here"
            budgets.append(schedule.budget)
    assert budgets == sorted(budgets, reverse=True)


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_model_is_told_how_to_get_a_schedule(name: str) -> None:
    pipe = OTHERS[name]()
    with pytest.raises(
        UnknownPresetError, match=r"no preset 'lemica-fast'.*dbcache-fast.*dit-accel profile JOB\.toml"
    ):
        enable_acceleration(pipe, "lemica-fast")
    with enable_acceleration(pipe, "dbcache-medium"):
        pass


def test_every_variant_is_tried_here() -> None:
    found = {variant.name for spec in all_specs() for variant in spec.variants}
    assert found == {"digits-wan", *PUBLISHED}


def test_a_wan_of_the_published_depth_follows_the_authors_list() -> None:
    """Narrow instead of 1536 wide, else as published: 30 blocks, 12 heads, 50 steps."""
    small = tiny("wan", "WanPipeline")
    pipe = small.build()
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    config = {**pipe.transformer.config, "num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 6}
    pipe.transformer = WanTransformer3DModel(**{k: v for k, v in config.items() if not k.startswith("_")}).eval()
    variant = find_variant(pipe, find_spec(pipe))
    assert variant is not None and variant.name == "wan2.1-t2v-1.3b"
    with enable_acceleration(pipe, "lemica-ultra") as acceleration:
        pipe(num_inference_steps=50, output_type="latent", **small.inputs())
        computed = acceleration.stats.computed_steps["transformer"]
        expected = [0, 1, 2, 3, 4, 5, 7, 10, 16, 23, 30, 37, 44, 49]
        assert computed == {"cond": expected, "uncond": expected}
        with pytest.raises(
            ScheduleMismatchError, match=r"planned for 50 steps, this run has 30.*num_inference_steps=50"
        ):
            pipe(num_inference_steps=30, output_type="latent", **small.inputs())
