"""The notebooks, by their own titles."""

from __future__ import annotations

from typing import Any

from .data import ROOT, DocumentationError, read
from .markdown import code, table


def notebooks() -> str:
    """File and title of each."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    rows = [[code(f"notebooks/{path.name}"), _title(read(path), path.name)] for path in paths]
    return table(["notebook", "what"], rows, text_columns=2)


def _title(notebook: dict[str, Any], name: str) -> str:
    """The heading that it opens with."""
    for cell in notebook["cells"]:
        lines = "".join(cell["source"]).splitlines()
        if cell["cell_type"] == "markdown" and lines and lines[0].startswith("# "):
            return lines[0].removeprefix("# ")
    raise DocumentationError(f"notebooks/{name} has no heading. Begin its first text with '# What it shows'.")


REGIONS = {"notebooks": notebooks}
