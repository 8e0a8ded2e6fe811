"""Reports as somebody might write them by hand: every text in them tries to be more than text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HOSTILE = (
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "]]></script><script>alert(1)</script><!--",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{",
    "\x1b]0;owned\x07\x1b[2J\x1b[31m",
    "a\r\nb|c\u2028d",
    "\u202egnp.exe",
    "[bold red]:smile:[/]",
    "\ud800",
    "__proto__",
    "' onmouseover='alert(1)",
    "../../etc/passwd\0",
    "",
)


def report_of(text: str, **changes: Any) -> dict[str, Any]:
    """The document of a report in which ``text`` is every label, prompt, metric and fact."""
    metrics = {"psnr": [30.0, None], f"x{text}": [1.0, 0.5]}
    row = {
        "name": text,
        "computed_steps": 2,
        "num_steps": 4,
        "speedup": 2.0,
        "num_videos": 1,
        "metrics": metrics,
        "density": None,
        "cache_bytes_peak": 1,
        "peak_memory_bytes": None,
    }
    sample = {
        **{key: value for key, value in row.items() if key != "num_videos"},
        "prompt": text,
        "seed": 7,
        "metrics": {name: value for name, (value, _) in metrics.items()},
        "frames": {"psnr": [30.0, 31.0]},
        "steps": {f"d{text}": {f"b{text}": "FRRF"}},
    }
    provenance = {
        "model": text,
        "pipeline": text,
        "device": text,
        "date": text,
        "prompts": [text],
        "unavailable_metrics": {text: text},
        text: {text: [text, {text: text}]},
    }
    document = {
        "schema": "dit_accel.quality_report",
        "version": 2,
        "rows": [row],
        "samples": [sample],
        "provenance": provenance,
    }
    return document | changes


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a document as JSON, and gives its path."""

    def write(document: Any, name: str = "hostile.json") -> Path:
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
        return tmp_path / name

    return write
