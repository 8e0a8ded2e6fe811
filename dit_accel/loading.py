"""Pipelines by name, for the command line and for profiling jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from .demo import load_demo_pipeline
from .errors import JobError, without_secrets

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DEMO_SOURCE = "demo"
# A job file may come from anyone, and so may the folder that it names: no pickles, no Python files.
_DATA_ONLY = {"use_safetensors": True, "trust_remote_code": False}
Offload = Literal["none", "model", "sequential"]


def load_pipeline(
    source: str, dtype: str = "float32", device: str = "cpu", *, offload: str = "none", vae_tiling: bool = False
) -> DiffusionPipeline:
    """The embedded demo pipeline (``"demo"``), or any diffusers directory or hub id.

    Args:
        source: ``"demo"``, a folder that diffusers saved, or a hub id.
        dtype: of its weights, as torch calls it, e.g. bfloat16.
        device: where it runs, as torch calls it, e.g. cuda.
        offload: ``"model"`` keeps only the component that runs on the device, ``"sequential"`` only the layer: less
            memory, slower. diffusers' own, and not for a CPU.
        vae_tiling: decode the video in tiles: less memory. Some pipelines can only do so.

    Raises:
        JobError: an unknown dtype or offload, or diffusers cannot load the source, not onto the device, or not so.
    """
    import torch
    from diffusers import DiffusionPipeline

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise JobError(f"dtype={dtype!r} is not a torch dtype. Use float32, bfloat16 or float16.")
    if offload not in get_args(Offload):
        raise JobError(f"offload={offload!r} is not allowed. Use one of: {', '.join(get_args(Offload))}.")
    if offload != "none" and device.partition(":")[0] == "cpu":
        raise JobError(f"offload={offload!r} moves weights between a GPU and the CPU; device={device!r} was given.")
    is_demo = source == DEMO_SOURCE
    try:
        pipe = load_demo_pipeline() if is_demo else DiffusionPipeline.from_pretrained(source, dtype=kind, **_DATA_ONLY)
    except Exception as error:  # of every library that has a part in the folder
        raise JobError(
            f"diffusers cannot load the pipeline {source!r}: {without_secrets(_first_line(error))} (Only weights in "
            "safetensors are read, and no code: a pipeline that needs more you can load yourself, in Python.)"
        ) from error
    if vae_tiling:
        _try(lambda: pipe.vae.enable_tiling(), f"The VAE of {type(pipe).__name__} cannot decode in tiles")
    # Not cast a second time: from_pretrained leaves in float32 what the model wants to keep so.
    place: dict[str, Callable[[], Any]] = {
        "none": lambda: pipe.to(device, kind) if is_demo and kind != torch.float32 else pipe.to(device),
        "model": lambda: pipe.enable_model_cpu_offload(device=device),
        "sequential": lambda: pipe.enable_sequential_cpu_offload(device=device),
    }
    how = "moved to" if offload == "none" else f"run with offload={offload!r} on"
    _try(place[offload], f"The pipeline cannot be {how} device={device!r}")
    return pipe


def _try(action: Callable[[], Any], what: str) -> None:
    try:
        action()
    except (RuntimeError, AssertionError, ValueError, AttributeError) as error:  # diffusers, torch, or no VAE
        raise JobError(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
