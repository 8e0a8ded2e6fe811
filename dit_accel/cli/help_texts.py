"""Help of options, read from the docstrings of what they are passed to, so that it is written once.

The sources are parsed, not imported: most of these modules need torch, for which ``--help`` should not wait.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from docstring_parser import DocstringStyle, parse


@dataclass(frozen=True)
class Argument:
    """An entry under ``Args:``.

    Args:
        text: what it says.
        kind: what it says in parentheses after the name, e.g. ``int, at least 1``; empty if there is nothing.
    """

    text: str
    kind: str


@functools.cache
def arguments(module: str, name: str) -> dict[str, Argument]:
    """What the docstring of a function, a method or a class says about its arguments.

    Args:
        module: below ``dit_accel``, e.g. ``profiling.planner``.
        name: e.g. ``plan``, or ``ErrorGraph.resample``.
    """
    source = files("dit_accel").joinpath(f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        node = next(inner for inner in ast.iter_child_nodes(node) if getattr(inner, "name", None) == part)
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return dict(_entries(ast.get_docstring(node) or ""))


def _entries(docstring: str) -> Iterator[tuple[str, Argument]]:
    for entry in parse(docstring, DocstringStyle.GOOGLE).params:
        for name in entry.arg_name.split(", "):
            yield name, Argument(_plain(entry.description or ""), _plain(entry.type_name or ""))


def _plain(text: str) -> str:
    """One paragraph without the marks of code."""
    return " ".join(text.replace("`", "").split())
