"""The committed results that the regions are written from, each with the command that produces it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dit_accel.errors import DitAccelError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PROFILES = ROOT / "offline_profiles"
_RUN = "python benchmarks/{}.py"
_SCHEDULES = f"{_RUN} --only --seeds 101 --schedules FOLDER/*.json"
# Result -> command; with ``--out`` it writes the file again. FOLDER is filled by planner_schedules.py.
COMMANDS = {
    **{
        name: _RUN.format(name)
        for name in (
            "cache_memory",
            "cache_overhead",
            "cost_growth",
            "dbcache_quality",
            "equal_quality",
            "planner_cost",
            "planner_curve",
            "planner_transfer",
            "profile_scale",
            "random_walk",
            "soak",
            "step_quality",
            "svg2_error",
            "svg2_quality",
            "svg2_speed",
            "tune_rivals",
        )
    },
    "gpu": _RUN.format("gpu_suite"),
    "profile_scale_local": _RUN.format("profile_scale") + " --local",
    "step_quality_planned": _SCHEDULES.format("step_quality"),
    "step_quality_polished": _SCHEDULES.format("step_quality"),
}


class DocumentationError(DitAccelError):
    """A page or committed data that the documentation cannot be generated from."""


@dataclass(frozen=True)
class Result:
    """One file of ``benchmarks/results``; of its rows what was set (``setting``) and what was found (``figures``)."""

    name: str
    date: str
    hardware: str
    versions: Mapping[str, str]
    rows: tuple[Mapping[str, Any], ...]

    def figures(self, subject: str, **setting: Any) -> dict[str, float]:
        """The figures of the one row of ``subject`` with this ``setting``.

        Raises:
            DocumentationError: no row is so, or several are.
        """
        found = [
            row["figures"]
            for row in self.rows
            if row["subject"] == subject and all(row["setting"].get(key) == value for key, value in setting.items())
        ]
        if len(found) != 1:
            raise DocumentationError(
                f"benchmarks/results/{self.name}.json has {len(found)} rows of {subject!r} with {setting}, and one is "
                f"needed. Run {COMMANDS[self.name]} again, or change the region that asks for it."
            )
        return dict(found[0])

    @property
    def source(self) -> str:
        """The line below a table: command, date and hardware."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items() if name != "dit-accel")
        return f"*`{COMMANDS[self.name]}` · {self.date} · {self.hardware}, {versions}*\n"

    @property
    def note(self) -> str:
        """Command and day in parentheses, for the end of a sentence."""
        return f"(`{COMMANDS[self.name]}`, {self.date})"


@cache
def result(name: str) -> Result:
    """A result by its file name.

    Raises:
        DocumentationError: the file is missing, has no date, or no command is known for it.
    """
    if name not in COMMANDS:
        raise DocumentationError(f"No command is known for the result {name!r}. Name it in docs/regions/data.py.")
    document = read(RESULTS / f"{name}.json")
    rows = tuple(_flat(row) for row in document["rows"])
    return Result(name, dated(document, f"{name}.json"), document["hardware"], document["versions"], rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A `dit_accel.rows.Row` in two parts: what was set, and what was found."""
    found = {} if row["ratio"] is None else {"ratio": row["ratio"]}
    model = {"pipeline": row["pipeline"], "dtype": row["dtype"]}
    return {
        "subject": row["subject"],
        "setting": {**model, **row["shapes"], **row["budget"], **row["setting"]},
        "figures": {**row["budget"], **row["quality"], **row["figures"], **found},
    }


def dated(document: Mapping[str, Any], origin: str) -> str:
    """The day of a document's ``date``.

    Raises:
        DocumentationError: it has none.
    """
    if not isinstance(document.get("date"), str):
        raise DocumentationError(f"{origin} has no date. Write it with its command, which notes the day.")
    return str(document["date"])[:10]


def read(path: Path) -> dict[str, Any]:
    """A committed JSON file.

    Raises:
        DocumentationError: it cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DocumentationError(
            f"{path} cannot be read: {problem}. Every figure comes from a committed file."
        ) from None
    return found
