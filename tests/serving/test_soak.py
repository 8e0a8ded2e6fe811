"""The soak benchmark, in short."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_mixed_requests_in_two_threads_are_right_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak

    subject = soak.tiny_subject()
    requests = soak.make_requests(subject, 20, random.Random(0))
    assert sum(request.abort is not None for request in requests) == 2
    found = soak.soak(subject, requests, threads=2)
    assert [request for request, is_right in found.outcomes if not is_right] == []
    rows = {row.subject: row.figures for row in soak.rows_of(found, "tiny", 2)}
    finished = [figures for figures in rows.values() if "finished" in figures]
    assert sum(figures["finished"] for figures in finished) == 18
    assert all(figures["bit_identical"] == figures["finished"] for figures in finished)
    assert rows["memory"]["tensor_mb_most"] - rows["memory"]["tensor_mb_least"] < 0.1
