"""A quality report of every pipeline class, on the smallest real one of it: whatever it takes and gives."""

from __future__ import annotations

import re

import pytest

from dit_accel.errors import ConfigError
from dit_accel.quality.report import evaluate

from .conftest import Lab

NUM_STEPS = 4
# What cannot be measured, and why.
REFUSED = {
    "LTX2HDRPipeline": (ConfigError, "spans .* A video is a floating-point tensor"),  # HDR frames leave [0, 1]
    "EasyAnimateControlPipeline": (AttributeError, "decode_latents"),  # diffusers 0.42.1 calls what it does not have
}
NEEDS_TILING = ("AllegroPipeline",)  # diffusers decodes its videos in tiles only


def test_a_report(lab: Lab) -> None:
    name = type(lab.pipe).__name__
    inputs = {**lab.tiny.inputs(), **lab.tiny.steps(NUM_STEPS)}
    prompt = inputs.pop("prompt", "")
    for set_by_evaluate in ("output_type", "return_dict", "generator"):
        inputs.pop(set_by_evaluate, None)
    if name in NEEDS_TILING:
        lab.pipe.vae.enable_tiling()

    def measured() -> tuple[float, int]:
        report = evaluate(lab.pipe, ["dbcache-fast"], [prompt], metrics=["psnr"], progress=False, **inputs)
        return report.rows[0].metrics["psnr"][0], report.samples[0].num_steps

    if name in REFUSED:
        kind, words = REFUSED[name]
        with pytest.raises(kind, match=re.compile(words, re.DOTALL)):
            measured()
        return
    psnr, num_steps = measured()
    assert psnr > 5 and num_steps >= 2
    if name in NEEDS_TILING:
        lab.pipe.vae.disable_tiling()
