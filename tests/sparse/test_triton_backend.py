"""Where the backend "triton" loads, and what it says elsewhere. What it computes: tests/test_kernels.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from dit_accel.errors import BackendUnavailableError, ConfigError
from dit_accel.sparse import backends
from dit_accel.sparse.torch_backend import TorchBackend
from dit_accel.sparse.triton_backend import TritonBackend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    """What loads is remembered, and these tests change what loads."""
    backends.load_backend.cache_clear()
    yield
    backends.load_backend.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU as far as loading asks for one, with Triton beside it."""
    monkeypatch.setitem(sys.modules, "triton", type(sys)("triton"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    return monkeypatch


def test_on_a_cpu_it_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match=r'runs on a GPU, these tensors are on cpu. Use backend="auto"'):
        backends.load_backend("triton", CPU)


def test_interpreted_it_loads_on_a_cpu_but_is_not_picked(gpu: pytest.MonkeyPatch) -> None:
    gpu.setenv("TRITON_INTERPRET", "1")
    assert isinstance(backends.load_backend("triton", CPU), TritonBackend)
    assert isinstance(backends.load_backend("auto", CPU), TorchBackend)


def test_on_a_gpu_it_is_picked_first(gpu: pytest.MonkeyPatch) -> None:
    assert isinstance(backends.load_backend("auto", CUDA), TritonBackend)


def test_an_old_gpu_is_named(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(BackendUnavailableError, match=r"compute capability 8.0 or newer, Some GPU has 7.5"):
        backends.load_backend("triton", CUDA)
    assert isinstance(backends.load_backend("auto", CUDA), TorchBackend)


def test_without_triton_it_says_what_to_install(gpu: pytest.MonkeyPatch) -> None:
    gpu.setitem(sys.modules, "triton", None)
    with pytest.raises(BackendUnavailableError, match=r"needs Triton.*pip install 'dit-accel\[triton\]'"):
        backends.load_backend("triton", CUDA)
    assert isinstance(backends.load_backend("auto", CUDA), TorchBackend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_dtype_that_would_come_out_wrong_is_refused(dtype: torch.dtype) -> None:
    tokens = torch.zeros(1, 8, 1, 16, dtype=dtype)
    with pytest.raises(ConfigError, match=f"takes torch.float32 and torch.float16 on cpu, got {dtype}. Use backend="):
        TritonBackend().assign(tokens, torch.zeros(1, 1, 2, 16))
