"""SECURITY.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from dit_accel import documents, schedule
from dit_accel.actions import MAX_STEPS
from dit_accel.cli import options
from dit_accel.profiling import error_graph, job_file, workdir
from dit_accel.quality import records, videos

TEXT = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
MIB = 1 << 20


def test_limits_are_those_of_the_code() -> None:
    found = dict(re.findall(r"^\| (.+?) \| (\d+(?: MiB)?) \|$", TEXT, re.MULTILINE))
    small = (schedule.MAX_FILE_BYTES, job_file.MAX_FILE_BYTES, options._MAX_PROMPTS_BYTES, workdir._MAX_BYTES)
    large = (error_graph.MAX_FILE_BYTES, records.MAX_FILE_BYTES, videos.MAX_VIDEO_BYTES)
    assert len(set(small)) == len(set(large)) == 1
    longest = max(length for length in range(1, 200) if documents.is_plain_name("a" * length))
    assert list(found.values()) == [
        f"{small[0] // MIB} MiB",
        f"{large[0] // MIB} MiB",
        str(documents.MAX_DEPTH),
        str(documents.MAX_INT_DIGITS),
        str(MAX_STEPS),
        str(longest),
    ]


def test_the_policy_is_whole() -> None:
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == ["What is trusted, and what is not", "Limits", "Reporting"]
