"""``dit-accel compare``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .help_texts import arguments
from .output import Result, Table

if TYPE_CHECKING:
    from ..quality.comparison import Comparison, Figure

_COMPARE = arguments("quality.comparison", "compare")


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help=f"a quality report: {_COMPARE['first'].text}")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help=f"a quality report: {_COMPARE['second'].text}")],
) -> Result:
    """Compare two quality reports, row by row, over the videos that both have."""
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
            "A, B and B - A are means over the pairs, the videos of one prompt and seed that both reports have, ± the "
            "standard error of the mean difference.",
            *_notes(found),
        ],
    )


def _cells(figure: Figure) -> list[str]:
    """A, B, and the difference with its error; a dash for what is not known."""
    error = "" if math.isnan(figure.standard_error) else f" ± {figure.standard_error:.2g}"
    difference = "–" if math.isnan(figure.difference) else f"{figure.difference:+.4g}{error}"
    return [*("–" if math.isnan(value) else f"{value:.4g}" for value in (figure.first, figure.second)), difference]


def _notes(found: Comparison) -> list[str]:
    """What is in one report alone, and what else differs."""
    missing = {"A": found.only_first, "B": found.only_second}
    notes = [f"Only in {side}: {', '.join(names)}" for side, names in missing.items() if names]
    if not all(row.num_pairs for row in found.rows):
        notes.append("Without pairs, A and B are means over the videos of each report.")
    return notes + [f"Note: {key} differs. A: {a}. B: {b}" for key, (a, b) in found.differing.items()]
