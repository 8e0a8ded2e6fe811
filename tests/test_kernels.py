"""Triton's kernels without a GPU: they compute the right thing interpreted, compile for GPUs, and need no host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]

pytest.importorskip("triton", reason="Triton has wheels for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from dit_accel.kernels import attention  # noqa: E402
from dit_accel.kernels.tiles import tile_shape  # noqa: E402
from dit_accel.sparse.clusters import PseudoTokens, Selection  # noqa: E402
from dit_accel.sparse.triton_backend import TritonBackend  # noqa: E402
from tests.sparse.test_index_memory import IndexBytes  # noqa: E402


@pytest.mark.slow
@pytest.mark.timeout(1200)  # many tests in one
def test_kernels_and_conformance_interpreted() -> None:
    """tests/kernels and the conformance suite, in a process in which Triton interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--no-header"]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))}
    done = subprocess.run(
        [
            *command,
            "tests/kernels",
            "tests/sparse/test_backends.py::TestConformance",
            "tests/sparse/test_triton_backend.py",
        ],
        cwd=ROOT,
        env={**own, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1100,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


class FakeDriver:
    """What Triton asks of a driver in order to compile for a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "kilobytes", "dim", "dtype"),
    [
        (86, 99, 128, torch.bfloat16),
        (90, 227, 128, torch.bfloat16),
        (90, 227, 64, torch.bfloat16),
        (90, 227, 64, torch.float32),
    ],
    ids=str,
)
def test_kernels_compile_and_fit_into_shared_memory(
    capability: int, kilobytes: int, dim: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as it is launched, down to machine code, which needs no GPU."""
    shared: dict[str, int] = {}
    run = JITFunction.run

    def compile_only(self: JITFunction[Any], *args: Any, **options: Any) -> None:
        compiled = run(self, *args, **{**options, "warmup": True})
        assert compiled.asm["cubin"]
        shared[compiled.metadata.name] = compiled.metadata.shared

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(attention, "shared_memory", lambda device: kilobytes << 10)
    monkeypatch.setattr(driver, "_active", FakeDriver(capability))  # its own way back needs a GPU
    run_all(torch.device("meta"), 8192, 2, dim, dtype, (32, 128))
    names = {f"_{kernel}_kernel" for kernel in ("assign", "count", "place", "moments", "list", "gather", "attention")}
    assert set(shared) == names
    assert max(shared.values()) <= kilobytes << 10
    _, options = tile_shape(dim, dtype, kilobytes << 10)
    at_a_time = (1 << 16) // (32 * options["num_warps"] * options.get("maxnreg", 255))  # registers of a multiprocessor
    # As many programs as there are registers for have room, with 1 KiB of the driver's for each.
    assert at_a_time * (shared["_attention_kernel"] + 1024) <= (kilobytes + 1) << 10


def run_all(
    device: torch.device, length: int, heads: int, dim: int, dtype: torch.dtype, counts: tuple[int, int]
) -> None:
    """Every launcher once."""
    num_q, num_k = counts
    backend = TritonBackend()
    tokens = torch.zeros(1, length, heads, dim, dtype=dtype, device=device)
    centroids = torch.zeros(1, heads, max(counts), dim, device=device)
    queries = backend.group(backend.assign(tokens, centroids[:, :, :num_q]), num_q)
    keys = backend.group(backend.assign(tokens, centroids[:, :, :num_k]), num_k)
    backend.moments(tokens, keys)
    kept = torch.zeros(1, heads, num_q, num_k, dtype=torch.bool, device=device)
    table = centroids[:, :, :num_k]
    pseudo = PseudoTokens(table, table, table, table[..., 0])
    out = backend.attend(tokens, tokens, tokens, Selection(queries, keys, kept, pseudo), dim**-0.5)
    assert out.shape == tokens.shape


def test_nothing_is_read_back_and_indices_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size of Wan 2.1 14B at 720p. A tensor on the device "meta" has no data: reading any would raise."""
    monkeypatch.setattr(JITFunction, "run", lambda self, *args, **options: None)
    with IndexBytes() as found:
        run_all(torch.device("meta"), 75_600, 40, 128, torch.bfloat16, (75_600 // 256, 75_600 // 64))
    assert 0.1 * 2**30 < found.peak <= 0.3 * 2**30
