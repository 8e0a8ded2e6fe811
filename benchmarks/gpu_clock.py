"""The clock of the GPU suite: device events, what the device can do at best, and the time that is left."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_accel.errors import DitAccelError

RUNS, WARM_UP = 20, 3
SMOKE_RUNS, SMOKE_WARM_UP = 2, 1
CACHE_BYTES = 256 << 20  # more than any L2 cache: written before each run, so that none finds its inputs there
Call = Callable[[], object]


class OutOfTimeError(DitAccelError):
    """A measurement would pass the limit of its part, and was not made."""


class Deadline:
    """The time that the suite, and in it a part, may take."""

    def __init__(self, seconds: float) -> None:
        self._end = self._part_end = time.monotonic() + seconds

    def begin_part(self, seconds: float) -> None:
        """A part of at most ``seconds`` begins."""
        self._part_end = min(self._end, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds that the part has left."""
        return self._part_end - time.monotonic()

    def require(self, seconds: float, what: str) -> None:
        """Raises:
        OutOfTimeError: the part has less than ``seconds`` left.
        """
        if seconds > self.left:
            raise OutOfTimeError(
                f"{what} would take {seconds:.0f} s, and {max(self.left, 0):.0f} s are left for this part. Give the "
                "suite more with --seconds, or run this part alone with --only."
            )


@dataclass(frozen=True)
class Peaks:
    """What the device was measured to do at best: multiplications and additions, and bytes moved, in a second."""

    flops: float
    bytes: float

    def floor_ms(self, flops: float, nbytes: float) -> float:
        """No implementation can take less."""
        return 1e3 * max(flops / self.flops, nbytes / self.bytes)


class Clock:
    """Times calls on a device, by events on CUDA and by the wall elsewhere.

    Args:
        device: where the work runs.
        deadline: what is left.
        is_smoke: two runs are enough: nothing is meant to be read from the times.
    """

    def __init__(self, device: torch.device, deadline: Deadline, *, is_smoke: bool) -> None:
        self.device, self.deadline = device, deadline
        self.runs, self.warm_up = (SMOKE_RUNS, SMOKE_WARM_UP) if is_smoke else (RUNS, WARM_UP)
        self._is_cuda = device.type == "cuda"
        self._cache = torch.empty(CACHE_BYTES if self._is_cuda else 1, dtype=torch.uint8, device=device)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._is_cuda:
            torch.cuda.synchronize(self.device)

    def time(self, calls: Mapping[str, Call], *, in_order: bool = False) -> dict[str, list[float]]:
        """Seconds of each call, `runs` times, all of them in turn; the order is turned round every other time.

        Args:
            calls: name -> what to time.
            in_order: never turn the order round.

        Raises:
            OutOfTimeError: so many runs would pass the limit.
        """
        for call in calls.values():  # compiles
            call()
        self.synchronize()
        start = time.perf_counter()
        for call in calls.values():
            call()
        self.synchronize()
        a_round = time.perf_counter() - start
        self.deadline.require((self.runs + self.warm_up) * a_round, f"{self.runs} runs of {', '.join(calls)}")
        rounds = []
        for index in range(self.warm_up + self.runs):
            names = list(calls) if in_order or index % 2 else list(reversed(calls))
            rounds.append({name: self._mark(calls[name]) for name in names})
        self.synchronize()
        kept = rounds[self.warm_up :]
        return {name: [self._seconds(found[name]) for found in kept] for name in calls}

    def _mark(self, call: Call) -> tuple[float | torch.cuda.Event, float | torch.cuda.Event]:
        if not self._is_cuda:
            start = time.perf_counter()
            call()
            return start, time.perf_counter()
        self._cache.zero_()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        return first, last

    @staticmethod
    def _seconds(marks: tuple[float | torch.cuda.Event, float | torch.cuda.Event]) -> float:
        first, last = marks
        if isinstance(first, float) or isinstance(last, float):
            return last - first  # both of one kind
        return first.elapsed_time(last) / 1e3


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile in milliseconds, and the number of runs."""
    low, _, _, high = statistics.quantiles(seconds, n=5, method="inclusive")
    return {
        "median_ms": 1e3 * statistics.median(seconds),
        "p20_ms": 1e3 * low,
        "p80_ms": 1e3 * high,
        "runs": len(seconds),
    }


def ratios(baseline: Sequence[float], seconds: Sequence[float]) -> tuple[float, dict[str, float]]:
    """Median of the pairwise ratios, baseline over subject, and their percentiles."""
    found = [one / other for one, other in zip(baseline, seconds, strict=True)]
    low, _, _, high = statistics.quantiles(found, n=5, method="inclusive")
    return statistics.median(found), {"ratio_p20": low, "ratio_p80": high}


def measure_peaks(clock: Clock, dtype: torch.dtype, *, is_smoke: bool) -> tuple[Peaks, dict[str, dict[str, float]]]:
    """By a product of large matrices and by a copy, with the times of both."""
    size, nbytes = (64, 1 << 16) if is_smoke else (8192, 1 << 30)
    matrix = torch.randn(size, size, device=clock.device).to(dtype)
    product = torch.empty_like(matrix)
    source = torch.empty(nbytes, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)

    def multiply() -> Tensor:
        return torch.mm(matrix, matrix, out=product)

    found = clock.time({"product": multiply, "copy": lambda: target.copy_(source)})
    flops = 2 * size**3 / statistics.median(found["product"])
    return Peaks(flops, 2 * nbytes / statistics.median(found["copy"])), {
        name: spread(seconds) for name, seconds in found.items()
    }


def driver_version() -> str:
    """Of the GPU, or why it is not known."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as problem:
        return f"unknown ({type(problem).__name__})"
    return done.stdout.strip().splitlines()[0]
