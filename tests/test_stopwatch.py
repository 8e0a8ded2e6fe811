"""The stopwatch: from the first start to the last lap, by CUDA events once CUDA is in use."""

from __future__ import annotations

import time

import torch

from dit_accel.stopwatch import Stopwatch


def test_the_stopwatch_runs_from_the_first_start_to_the_last_lap(monkeypatch):
    now = iter([10.0, 12.0, 15.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    assert watch.seconds == 0.0
    watch.start()
    assert watch.seconds == 0.0
    watch.lap()
    watch.start()
    watch.lap()
    assert watch.seconds == 5.5


def test_the_stopwatch_uses_events_once_cuda_is_in_use(monkeypatch):
    """Offloaded weights are on the CPU when a call begins: their device does not say where the work is done."""

    class Event:
        times = iter([100.0, 350.0])

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = next(self.times)

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, later: Event) -> float:
            return later.time - self.time

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    watch = Stopwatch()
    watch.start()
    watch.lap()
    assert watch.seconds == 0.25
