"""``dit-accel compare``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .help_texts import arguments
from .output import Result, Table, status

if TYPE_CHECKING:
    from ..quality.comparison import Comparison, Figure

_COMPARE = arguments("quality.comparison", "compare")


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help=f"a quality report: {_COMPARE['first'].text}")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help=f"a quality report: {_COMPARE['second'].text}")],
) -> Result:
    """Compare two quality reports, row by row, over the videos that both have."""
    with status("Starting"):
        from ..quality import comparison
        from ..quality.records import QualityReport

    found = comparison.compare(QualityReport.load(first), QualityReport.load(second))
    rows = [
        [row.name, figure.name, *_cells(figure), str(row.num_pairs)] for row in found.rows for figure in row.figures
    ]
    return Result(
        {"first": first, "second": second, **vars(found)},
        [
            f"A: {first}",
            f"B: {second}",
            Table(["name", "figure", "A", "B", "B - A", "pairs"], rows, num_words=2),
            "Means over the pairs: the videos of a prompt and a seed that both reports have. ± is the standard error "
            "of the mean difference.",
            *_notes(found),
        ],
    )


def _cells(figure: Figure) -> list[str]:
    """A, B, and the difference with its error, as reports show such figures; a dash for what is not known."""
    from ..quality.records import metric_text, number_text

    def text(value: float, error: float = math.nan) -> str:
        if figure.name != "speedup":
            return metric_text(figure.name, value, error)
        return number_text(value, 2, "×") + ("" if math.isnan(error) else f" ± {error:.2f}")

    sign = "+" if figure.difference > 0 else ""
    return [text(figure.first), text(figure.second), sign + text(figure.difference, figure.standard_error)]


def _notes(found: Comparison) -> list[str]:
    """What is in one report alone, and what else differs."""
    missing = {"A": found.only_first, "B": found.only_second}
    notes = [f"Only in {side}: {', '.join(names)}" for side, names in missing.items() if names]
    if not all(row.num_pairs for row in found.rows):
        notes.append("Without pairs, A and B are means over the videos of each report.")
    return notes + [f"{key} differs. A: {_said(a)}. B: {_said(b)}" for key, (a, b) in found.differing.items()]


def _said(value: Any) -> str:
    return "not told" if value is None else str(value)
