"""``benchmarks/gpu_suite.py`` without a GPU: every part that can run does, and what goes wrong is told."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMOKE = ["--device", "cpu", "--smoke"]


@pytest.fixture(scope="module")
def suite() -> Iterator[Any]:
    """The module; what the benchmarks import from each other is forgotten afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import gpu_suite

        yield gpu_suite
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def reason(row: dict[str, Any]) -> str:
    return str(row["setting"].get("not_measured", ""))


def test_every_part_runs_on_a_cpu(suite: Any, tmp_path: Path) -> None:
    assert suite.main([*SMOKE, "--out", str(tmp_path / "rows.json")]) == 0
    rows = read(tmp_path / "rows.json")
    assert rows[0]["subject"] == "device" and rows[0]["figures"]["peak_tflops"] > 0
    timed = {row["subject"] for row in rows if row["figures"]}
    assert {"dense: scaled_dot_product_attention", "svg2_attention, torch", "run: LeMiCa and SVG2"} <= timed
    assert {"cache overhead: LeMiCa, reused call", "cache overhead: DBCache, computed call"} <= timed
    for row in rows:
        assert bool(row["figures"]) != bool(reason(row)), row
        assert row["quality"].get("difference", 0.0) <= 1e-6
        assert "failed" not in row["setting"] and "peak_memory_mib" not in row["figures"]
    why = {row["subject"]: reason(row) for row in rows}
    assert "runs on a GPU" in why["check: kernels"] and "runs on a GPU" in why["op: kernels"]
    assert "only CUDA tells" in why["host syncs"]
    assert "cuda" in why["svg2_attention, flashinfer"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which the suite would run")
@pytest.mark.parametrize(
    ("arguments", "words"), [([], "needs a CUDA GPU, and torch finds none"), (["--device", "cpu"], "needs --smoke")]
)
def test_without_a_gpu_it_is_one_clear_error(
    suite: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str, tmp_path: Path
) -> None:
    assert suite.main([*arguments, "--out", str(tmp_path / "rows.json")]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "rows.json").exists()


def parts_of(suite: Any, **runs: Any) -> tuple[Any, ...]:
    """Parts that do no work; the first has the most worth."""
    return tuple(suite.Part(name, 10 - index, 60, run) for index, (name, run) in enumerate(runs.items()))


def row_of(suite: Any, subject: str, **setting: Any) -> Any:
    return suite.Row("gpu_suite", subject, setting=setting)


def run(suite: Any, monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str, **runs: Any) -> int:
    monkeypatch.setattr(suite, "PARTS", parts_of(suite, **runs))
    code: int = suite.main([*SMOKE, "--out", str(out), *arguments])
    return code


def test_a_failed_check_fails_the_command_and_the_rest_is_measured(
    suite: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = run(
        suite,
        monkeypatch,
        tmp_path / "rows.json",
        checks=lambda _: iter([row_of(suite, "check: gather", failed="an error of 1, at most 0 is allowed")]),
        times=lambda _: iter([row_of(suite, "time")]),
    )
    assert code == 1 and "check: gather: an error of 1" in capsys.readouterr().err
    assert [row["subject"] for row in read(tmp_path / "rows.json")] == ["check: gather", "time"]


def test_a_part_that_breaks_leaves_the_others(suite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: Any) -> Iterator[Any]:
        yield row_of(suite, "before")
        raise ValueError("no such tile")

    code = run(suite, monkeypatch, tmp_path / "r.json", broken=broken, good=lambda _: iter([row_of(suite, "after")]))
    rows = read(tmp_path / "r.json")
    assert code == 1 and [row["subject"] for row in rows] == ["before", "part broken", "after"]
    assert rows[1]["setting"] == {"failed": "ValueError: no such tile"}


def test_a_cut_run_leaves_the_rows_of_the_parts_before(
    suite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cut(_: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run(suite, monkeypatch, tmp_path / "r.json", good=lambda _: iter([row_of(suite, "kept")]), cut=cut)
    assert [row["subject"] for row in read(tmp_path / "r.json")] == ["kept"]


def test_parts_stop_at_the_limit(suite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def endless(_: Any) -> Iterator[Any]:
        while True:
            time.sleep(0.02)
            yield row_of(suite, "more")

    out = tmp_path / "r.json"
    code = run(suite, monkeypatch, out, "--seconds", "0.2", endless=endless, late=lambda _: iter(()))
    subjects = [row["subject"] for row in read(out)]
    assert code == 0 and 1 <= subjects.count("more") <= 11
    assert subjects[-2:] == ["part endless", "part late"]


def test_what_would_pass_the_limit_is_not_measured(suite: Any) -> None:
    clock, calls = suite.Clock(torch.device("cpu"), suite.Deadline(1.0), is_smoke=False), []

    def slow() -> None:
        calls.append(time.sleep(0.1))

    with pytest.raises(Exception, match="20 runs of slow would take"):
        clock.time({"slow": slow})
    assert len(calls) < 10
    clock = suite.Clock(torch.device("cpu"), suite.Deadline(60), is_smoke=False)
    found = clock.time({"one": lambda: time.sleep(1e-3), "two": lambda: time.sleep(30e-3)})
    assert len(found["one"]) == len(found["two"]) == 20
    assert suite.gpu_attention.ratios(found["two"], found["one"])[0] > 1.5


def test_calls_that_alternate_stay_in_order(suite: Any) -> None:
    clock, seen = suite.Clock(torch.device("cpu"), suite.Deadline(60), is_smoke=True), []
    clock.time({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, in_order=True)
    assert seen == ["a", "b"] * (len(seen) // 2)


def test_the_floor_is_what_takes_longer(suite: Any) -> None:
    from gpu_clock import Peaks

    peaks = Peaks(1e12, 1e9)
    assert peaks.floor_ms(2e12, 1e9) == 2000 and peaks.floor_ms(1e12, 3e9) == 3000
