"""The tiny pipeline, a finished job on it and a copy of its work directory, for the tests of `profile`."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel.pipelines import wan
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile

from ..conftest import tiny_inputs

PROMPTS = ("a red seven moving left on navy", "a blue one spinning on gray", "a green two growing on black")
NUM_STEPS, MAX_SEGMENT = 6, 3
ARGUMENTS: dict[str, Any] = {
    "num_inference_steps": NUM_STEPS,
    "max_segment": MAX_SEGMENT,
    "batch_size": 2,
    "progress": False,
    **tiny_inputs(),
}
ROLLOUT = "rollouts/000-001-003.json"

Run = Callable[..., ErrorGraph]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return wan.tiny()


@pytest.fixture(scope="module")
def finished(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ErrorGraph]:
    """The work directory of an uninterrupted job, and its graph. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, profile(pipe, PROMPTS, workdir=workdir, **ARGUMENTS)


@pytest.fixture
def copy(finished: tuple[Path, ErrorGraph], tmp_path: Path) -> Path:
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def again(pipe: Any, copy: Path) -> Run:
    return functools.partial(profile, pipe, PROMPTS, **{**ARGUMENTS, "workdir": copy})


def latents(pipe: Any, prompts: tuple[str, ...], seed: int = 0) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    inputs = {**tiny_inputs(), "num_inference_steps": NUM_STEPS, "output_type": "latent", "return_dict": False}
    found: Tensor = pipe(prompt=list(prompts), generator=generators, **inputs)[0]
    return found


def stamps(workdir: Path) -> dict[str, int]:
    files = [*(workdir / "rollouts").iterdir(), *workdir.glob("trajectory-*")]
    return {path.name: path.stat().st_mtime_ns for path in files}
