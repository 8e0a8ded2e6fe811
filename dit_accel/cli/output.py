"""What a command found, as JSON, as text for pipes and files, or drawn for people at a terminal."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import typer
from rich import box
from rich.console import Console
from rich.table import Table as DrawnTable
from rich.text import Text

# Escape sequences, what moves the cursor, what turns the direction of writing, and halves of letters.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Drawn(Protocol):
    """A part of a result that looks better at a terminal than its ``str`` in a pipe."""

    def __rich__(self) -> Any:
        """What rich draws."""


@dataclass(frozen=True)
class Result:
    """What a command found.

    Args:
        data: for ``--json``: JSON values, dataclasses and paths.
        parts: what is shown one below the other otherwise.
        failure: why the exit code is to be 1 all the same, for stderr; None is success.
    """

    data: Mapping[str, Any]
    parts: Sequence[str | Drawn]
    failure: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head: Markdown as text. Drawn, rows of one first cell are a group, which names it once.

    Args:
        head: names of the columns.
        rows: as many cells each.
        num_words: columns at the left that hold words. The others hold figures and are set flush right.
        text: what it is as text instead of Markdown, where scripts count on it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_words: int = 1
    text: str | None = None

    @classmethod
    def from_markdown(cls, text: str) -> Table:
        """The table that a library function wrote."""
        lines = (re.split(r"(?<!\\)\|", line)[1:-1] for line in text.strip().splitlines())
        head, _, *rows = ([cell.strip().replace("\\|", "|") for cell in line] for line in lines)
        return cls(head, rows)

    def __str__(self) -> str:
        if self.text is not None:
            return visible(self.text)
        rules = ["---" if index < self.num_words else "---:" for index in range(len(self.head))]
        rows = [[_one_line(cell).replace("|", "\\|") for cell in row] for row in (self.head, *self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rules, *rows[1:]))

    def __rich__(self) -> DrawnTable:
        table = DrawnTable(
            box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, collapse_padding=True
        )
        for index, name in enumerate(self.head):
            is_words = index < self.num_words
            justify: Literal["left", "right"] = "left" if is_words else "right"
            table.add_column(_one_line(name), justify=justify, no_wrap=index == 0, overflow="fold")
        shown = [[_one_line(cell) for cell in row] for row in self.rows]
        groups = [list(rows) for _, rows in itertools.groupby(shown, key=lambda row: row[0])]
        for (name, *cells), *others in groups:
            table.add_row(name, *cells, end_section=not others and len(groups) < len(self.rows))
            for row in others:
                table.add_row("", *row[1:], end_section=row is others[-1])
        return table


def show(result: Result, as_json: bool) -> None:
    """Print a result to stdout."""
    console = Console(highlight=False, markup=False, emoji=False)
    parts = [visible(part) if isinstance(part, str) else part for part in result.parts]
    if as_json:
        typer.echo(json.dumps(json_value(result.data), indent=2, allow_nan=False))
    elif not console.is_terminal:
        typer.echo("\n".join(map(str, _spaced(parts))))
    else:
        for part in _spaced(parts):
            console.print(part)


def _spaced(parts: Sequence[str | Drawn]) -> Iterator[str | Drawn]:
    """The parts with an empty line before and after what is not plain text; Markdown needs it, too."""
    for before, part in zip((None, *parts), parts, strict=False):
        if before is not None and not (isinstance(before, str) and isinstance(part, str)):
            yield ""
        yield part


def error_line(text: str) -> None:
    """Print ``text`` to stderr as one line."""
    typer.echo(" ".join(_one_line(text).split()), err=True)


def visible(text: str) -> str:
    """``text`` for a terminal: what files and prompts hold is shown, and cannot command it."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _one_line(text: str) -> str:
    return visible(" ".join(text.splitlines()))


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say at a terminal, on stderr, what one waits for; it is gone when the work is done."""
    with Console(stderr=True).status(Text(_one_line(text))) if sys.stderr.isatty() else nullcontext():
        yield


def json_value(value: Any) -> Any:
    """``value`` in JSON types; null for what is not a finite number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in fields(value)}
    return str(value) if isinstance(value, Path) else value
