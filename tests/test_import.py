"""What ``import dit_accel`` costs: little time, no model library, no optional package, no CUDA."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Run in a fresh interpreter. CPU time, not wall time: the tests run beside each other.
PROBE = """
import json, sys, time
import torch
before, start = set(sys.modules), time.process_time()
import dit_accel
seconds = time.process_time() - start
added = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
json.dump({"seconds": seconds, "added": added, "cuda": torch.cuda.is_initialized()}, sys.stdout)
"""
HEAVY = {
    "accelerate",
    "diffusers",
    "flashinfer",
    "imageio",
    "jinja2",
    "lpips",
    "matplotlib",
    "ray",
    "scipy",
    "skimage",
    "sklearn",
    "stlpips_pytorch",
    "torchvision",
    "transformers",
    "triton",
}


def probe() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    return probe()


def test_import_loads_no_model_library_and_no_optional_package(report):
    assert "dit_accel" in report["added"]
    assert not HEAVY & set(report["added"])


def test_import_does_not_start_cuda(report):
    assert report["cuda"] is False


def test_import_is_quick(report):
    seconds = min(report["seconds"], *(probe()["seconds"] for _ in range(2)))
    assert seconds < 1.5, f"import dit_accel took {seconds:.2f} s of CPU time beyond torch"


def test_star_import_gives_exactly_the_public_names():
    import dit_accel

    names = getattr(dit_accel, "__all__", [])
    assert len(names) <= 16
    for name in names:
        assert getattr(dit_accel, name) is not None, name
