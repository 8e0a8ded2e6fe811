"""Where the figures of a report come from: pipeline, prompts, machine, versions, date."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..registry import model_id
from ..timed_run import device_of
from .metrics import unavailable_metrics
from .records import json_value


def provenance(
    pipe: Any,
    plans: Mapping[str, tuple[Any, ...]],
    prompts: Sequence[str],
    seeds: Sequence[int],
    fps: int,
    pipe_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """What has to be known to run the report again, as JSON values."""
    return {
        "pipeline": type(pipe).__name__,
        "model": model_id(pipe),
        "accelerations": {label: [str(item) for item in what] for label, what in plans.items()},
        "prompts": list(prompts),
        "seeds": list(seeds),
        "fps": fps,
        "inputs": json_value(pipe_kwargs),
        "versions": {name.replace("-", "_"): _version(name) for name in ("torch", "diffusers", "dit-accel")},
        "device": device_name(device_of(pipe)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "unavailable_metrics": unavailable_metrics(),
    }


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on most Linux systems
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = (models or [platform.processor() or platform.machine()])[0]
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
