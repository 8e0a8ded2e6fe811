"""The GPU suite: checks of every kernel, times of attention and of each kernel, costs of the caches, memory, syncs.

    python benchmarks/gpu_suite.py [--out benchmarks/results/gpu.json]      or: make bench-gpu

One command for one GPU, at most 9 minutes. What matters most comes first, every part stops at its limit, and the rows
are written after each, so that a run that was cut leaves what it has. Times are medians with the 20th and 80th
percentile over 20 runs after warm-up, by device events; the L2 cache is emptied before each. "floor_ms" is the least
that this GPU would need: operations over the rate of a large matrix product, or bytes over that of a copy, whichever
is more, both measured by the first part. What does not load here has a row that says why, and no figures.

Checks come first: each kernel, compiled, against its reference. If one fails the command fails, and the rest is
measured all the same. So it does if a part breaks.

    python benchmarks/gpu_suite.py --device cpu --smoke      tries every part that can run without a GPU, on tiny sizes
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import gpu_attention
import gpu_checks
import gpu_ops
import gpu_pipeline
import torch
from gpu_clock import Clock, Deadline, driver_version, measure_peaks
from gpu_parts import QUESTION, Part, Suite, run_parts

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.quality.provenance import device_name
from dit_accel.rows import Row

RESULT = Path(__file__).parent / "results" / "gpu.json"
SECONDS = 510.0  # with imports and the last measurement, less than 9 minutes
GRACE_SECONDS = 25.0


def environment(suite: Suite) -> Iterator[Row]:
    """What the device is, and what it does at best."""
    suite.peaks, times = measure_peaks(suite.clock, suite.dtype, is_smoke=suite.is_smoke)
    figures = {"peak_tflops": suite.peaks.flops / 1e12, "bandwidth_gb_per_s": suite.peaks.bytes / 1e9}
    setting = {"device": device_name(suite.device), "torch": torch.__version__}
    if suite.device.type == "cuda":
        properties = torch.cuda.get_device_properties(suite.device)
        setting |= {"driver": driver_version(), "cuda": torch.version.cuda or "none"}
        setting["capability"] = f"{properties.major}.{properties.minor}"
        figures |= {"memory_gib": properties.total_memory / 2**30, "processors": properties.multi_processor_count}
    for name, found in times.items():
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    yield Row(QUESTION, "device", dtype=suite.dtype_name, setting=setting, figures=figures)


PARTS = (
    Part("environment", 100, 30, environment),
    Part("checks", 90, 120, gpu_checks.checks),
    Part("attention", 80, 190, gpu_attention.attention),
    Part("ops", 70, 60, gpu_ops.ops),
    Part("syncs", 60, 30, gpu_pipeline.host_syncs),
    Part("memory", 50, 70, gpu_pipeline.memory),
    Part("overhead", 40, 50, gpu_pipeline.overhead),
    Part("backends", 30, 220, gpu_attention.other_backends),
)


def prepare(device_type: str, *, is_smoke: bool, seconds: float) -> Suite:
    """The suite on a device.

    Raises:
        ConfigError: there is no such device, or it would not run what it should.
    """
    if device_type == "cpu" and not is_smoke:
        raise ConfigError(
            "The GPU suite on a CPU would take days: --device cpu needs --smoke, which tries it on tiny sizes."
        )
    if device_type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "The GPU suite needs a CUDA GPU, and torch finds none here. Run it on a machine with one and a CUDA build "
            "of torch, or try it on tiny sizes with: --device cpu --smoke"
        )
    if device_type == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":
        raise ConfigError("TRITON_INTERPRET=1 has Triton interpret its kernels, which would be timed. Unset it.")
    device = torch.device(device_type, 0) if device_type == "cuda" else torch.device(device_type)
    deadline = Deadline(seconds)
    dtype = torch.bfloat16 if device_type == "cuda" else torch.float32
    return Suite(device, dtype, is_smoke, Clock(device, deadline, is_smoke=is_smoke))


def hardware_of(suite: Suite) -> str:
    """For the file of rows."""
    name = device_name(suite.device)
    return f"{name}, driver {driver_version()}" if suite.device.type == "cuda" else name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 0 if every check passed and no part broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, two runs each: times mean nothing")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="and environment")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that the whole may take")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu.json; nothing with --smoke")
    args = parser.parse_args(arguments)
    try:
        suite = prepare(args.device, is_smoke=args.smoke, seconds=args.seconds)
    except DitAccelError as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
        return 2
    out = args.out or (None if args.smoke else RESULT)
    parts = [part for part in PARTS if args.only is None or part.name in ("environment", *args.only)]
    watch = threading.Timer(args.seconds + GRACE_SECONDS, _give_up)
    watch.daemon = True
    watch.start()
    try:
        _, problems = run_parts(parts, suite, out, hardware_of(suite))
    finally:
        watch.cancel()
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _give_up() -> None:
    """Something hangs, in a compiler or on the device, and cannot be interrupted. The parts before it are on disk."""
    print(f"FAILED: the suite did not end {GRACE_SECONDS:.0f} s after its limit, and was stopped.", file=sys.stderr)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
