"""Docstrings here tell of several parameters in one entry, ``width, height: …``; the API page gives each its own."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ENTRY = re.compile(
    r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+)(?P<rest>(?: \([^\n]*\))?:[^\n]*(?:\n(?P=indent) +[^\n]*)*)", re.MULTILINE
)


class SeparateNames(griffe.Extension):
    """Repeats an entry for every name in it, before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for everything that was read."""
        if obj.docstring is not None:
            obj.docstring.value = _ENTRY.sub(separated, obj.docstring.value)


def separated(entry: re.Match[str]) -> str:
    """The entry once for each of its names."""
    return "\n".join(entry["indent"] + name + entry["rest"] for name in entry["names"].split(", "))
