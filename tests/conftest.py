"""What tests of more than one file use."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def document(**changes: Any) -> str:
    """A valid schedule file with some keys replaced; ``None`` as a value takes the key out."""
    valid = {"schema": "dit_accel.cache_schedule", "version": 1, "num_steps": 10, "compute_steps": [0, 4, 9]}
    merged: dict[str, Any] = {**valid, "provenance": {"name": "mine"}, **changes}
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def tiny_inputs() -> dict[str, Any]:
    """Arguments of a call of the tiny Wan pipeline (`wan.tiny`), without the prompt."""
    from dit_accel.pipelines import wan  # here, because it imports transformers

    return {key: value for key, value in wan.tiny_inputs().items() if key != "prompt"}


def tiny_pipeline() -> Any:
    """A tiny Wan pipeline that shows no progress."""
    from dit_accel.pipelines import wan

    pipe = wan.tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_tiny(pipe: Any, **changes: Any) -> Tensor:
    """The latents that it makes in six steps."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"prompt": "a red seven spinning on navy", "num_inference_steps": 6, **tiny_inputs(), **changes}
    latents: Tensor = pipe(generator=generator, output_type="latent", return_dict=False, **inputs)[0]
    return latents


def attributes(pipe: Any) -> dict[str, Any]:
    """Names of all attributes of the denoiser's modules, and how many hooks hang on each."""
    modules = pipe.transformer.named_modules()
    return {n: (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules}
