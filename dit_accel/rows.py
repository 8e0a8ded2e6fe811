"""`Row`: the one schema of measurements, of ``dit-accel bench`` and of everything in ``benchmarks/``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .documents import save_file
from .errors import ConfigError

ROWS_SCHEMA = 2
_NAMED_VERSIONS = ("torch", "triton", "diffusers", "cache-dit", "dit-accel")


@dataclass(frozen=True)
class Row:
    """One measurement. The file that holds it adds hardware, versions and date.

    Args:
        question: what was asked: the stem of the benchmark's file, or ``"bench"``.
        subject: what was measured.
        pipeline: the model, or ``"none"`` where no pipeline takes part.
        shapes: sizes, such as ``tokens``, ``heads``, ``frames``.
        dtype: of the model or of the tensors, without ``torch.``.
        budget: what the subject may compute, such as ``computed_steps`` of ``num_steps``, or ``density``.
        ratio: time of the baseline over that of the subject, median over pairs: 2.0 is twice as fast. None: not timed,
            or the subject is the baseline.
        quality: how near the subject's output is to the baseline's, such as ``psnr_db``.
        setting: the knobs, and how it was measured.
        figures: everything else that was found, with units in the names.
    """

    question: str
    subject: str
    pipeline: str = "none"
    shapes: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    budget: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    setting: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


def save_rows(path: str | Path, rows: Sequence[Row], *, hardware: str) -> None:
    """Write rows with the date (UTC), the hardware and the versions of what takes part.

    Raises:
        ConfigError: the file cannot be written.
    """
    document = {
        "schema_version": ROWS_SCHEMA,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware,
        "versions": _versions(),
        "rows": [asdict(row) for row in rows],
    }
    save_file(Path(path), json.dumps(document, indent=1) + "\n", ConfigError, "rows")


def _versions() -> dict[str, str]:
    found = {}
    for name in _NAMED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # only what is installed can have taken part
            continue
    return found
