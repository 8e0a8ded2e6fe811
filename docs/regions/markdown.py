"""Tables and figures in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table; the first ``text_columns`` are aligned to the left, the others to the right."""
    align = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    lines = [head, align, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"A row of {len(row)} cells in a table of {len(head)} columns: {row}.")
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def code(text: str) -> str:
    """A code span."""
    return f"`{text}`"


def mean(value: float, error: float, digits: int = 2) -> str:
    """A mean with its standard error."""
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def times(value: float) -> str:
    """A ratio of speeds."""
    return f"{value:.2f}×"


def percent(share: float, digits: int = 0) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{100 * share:.{digits}f} %"


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else "".join(items)
