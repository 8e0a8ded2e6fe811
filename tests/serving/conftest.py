"""A pipeline with one denoiser, others that share it, and threads that are made to meet."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config
from dit_accel.pipelines import wan

NUM_STEPS = 6
PROBE = DBCacheConfig(
    residual_diff_threshold=1e9,
    max_warmup_steps=1,
    max_continuous_cached_steps=2,
    always_compute_last=False,
    forecast="taylor1",
)
SCHEDULE = LeMiCaConfig(CacheSchedule(NUM_STEPS, (0, 3)))
SPARSE = SVG2Config(min_tokens=0, dense_steps=0.0, dense_layers=0.0, num_q_centroids=2, num_k_centroids=2)
METHODS = {"probe": (PROBE,), "schedule": (SCHEDULE,), "schedule+svg2": (SCHEDULE, SPARSE)}
every_method = pytest.mark.parametrize("configs", METHODS.values(), ids=METHODS)
SIZES = [
    {"height": h, "width": w, "num_frames": f} for h, w, f in ((16, 16, 1), (16, 32, 5), (32, 32, 5), (48, 32, 5))
]


@pytest.fixture
def pipe() -> Any:
    return tiny()


def tiny() -> Any:
    """A pipeline of its own; all have the same weights."""
    pipe = wan.tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sharing(pipe: Any) -> Any:
    """A pipeline for another thread, as the documentation says: it shares the denoiser and the text encoder."""
    other = copy.copy(pipe)
    other.scheduler, other.vae = copy.deepcopy(pipe.scheduler), copy.deepcopy(pipe.vae)
    return other


def run(pipe: Any, seed: int = 0, **changes: Any) -> Tensor:
    """The latents that it makes."""
    inputs = {**wan.tiny_inputs(), **SIZES[1], "num_inference_steps": NUM_STEPS, "output_type": "latent", **changes}
    found: Tensor = pipe(generator=torch.Generator().manual_seed(seed), return_dict=False, **inputs)[0]
    return found


def at_step(at: int, action: Callable[[], object]) -> Any:
    """A callback that does something at the end of one step."""

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            action()
        return tensors

    return callback


class Worker(threading.Thread):
    """Runs a function in a thread of its own; ``result`` gives what it returned, or raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function, self._outcome, self._error = function, None, None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._function()
        except BaseException as error:  # handed over, whatever it is
            self._error = error

    def result(self) -> Any:
        self.join(timeout=300)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._outcome


class Meeting:
    """A place in a run where its thread waits until it is told to go on."""

    def __init__(self) -> None:
        self._there, self._go_on = threading.Event(), threading.Event()

    def stop(self) -> None:
        """Called by the run."""
        self._there.set()
        assert self._go_on.wait(300)

    def wait(self) -> None:
        """Called by the test: the run has come here."""
        assert self._there.wait(300)

    def release(self) -> None:
        self._go_on.set()
