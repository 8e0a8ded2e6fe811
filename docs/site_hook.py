"""What mkdocs does with links out of this folder: pictures that they show become files of the site.

Pages link as they are read in the repository, e.g. ``../offline_profiles/digits-wan/error-graph.png``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_DOCS = Path(__file__).parent
_PICTURE = re.compile(r"(?<=\]\()\.\./(?P<path>[\w./-]+\.png)(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures that any page shows."""
    texts = (page.read_text(encoding="utf-8") for page in sorted(_DOCS.glob("*.md")))
    for path in sorted({found["path"] for text in texts for found in _PICTURE.finditer(text)}):
        files.append(File.generated(config, f"pictures/{path}", abs_src_path=str(_DOCS.parent / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Have the page show them from there."""
    return _PICTURE.sub(r"pictures/\g<path>", markdown)
