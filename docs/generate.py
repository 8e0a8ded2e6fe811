"""Writes the generated regions of the documentation, or checks that they are current.

    python docs/generate.py            # rewrite every region from the committed data
    python docs/generate.py --check    # exit 1, with a diff, if a region is stale
    python docs/generate.py --list     # print every region, for writing pages around them

A region stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``, each on a line of its own.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from regions import REGIONS
from regions.data import ROOT, DocumentationError

from dit_accel.documents import write_atomically
from dit_accel.errors import DitAccelError, did_you_mean

_BEGIN = re.compile(r"<!-- generated: (?P<name>\S+) -->")
_END = "<!-- end -->"


@dataclass(frozen=True)
class Region:
    """A generated part of a page: the line after its opening marker, up to the closing one."""

    name: str
    first: int
    stop: int


def pages() -> list[Path]:
    """Every page that may hold regions."""
    docs = sorted((ROOT / "docs").glob("*.md"))
    others = ("README.md", "offline_profiles/README.md", "pipelines/digits_wan/MODEL_CARD.md")
    return [*(ROOT / name for name in others), *docs]


def find_regions(lines: list[str], origin: str) -> list[Region]:
    """The regions of a page, in order.

    Raises:
        DocumentationError: a region is unknown, is not closed, holds another, or is closed without being opened.
    """
    found: list[Region] = []
    opened: tuple[str, int] | None = None
    for number, line in enumerate(lines):
        begin = _BEGIN.fullmatch(line.strip())
        where = f"{origin}:{number + 1}"
        if begin:
            if opened:
                raise DocumentationError(_unclosed(origin, *opened))
            if begin["name"] not in REGIONS:
                raise DocumentationError(
                    f"{where}: there is no region {begin['name']!r}. Regions: {', '.join(sorted(REGIONS))}."
                    f"{did_you_mean(begin['name'], REGIONS)}"
                )
            opened = begin["name"], number + 1
        elif line.strip() == _END:
            if not opened:
                raise DocumentationError(f"{where}: {_END} closes nothing. Remove it, or open a region before it.")
            found.append(Region(*opened, number))
            opened = None
        elif "<!-- generated" in line:
            raise DocumentationError(
                f"{where}: {line.strip()!r} is no marker. Write <!-- generated: NAME --> alone in a line."
            )
    if opened:
        raise DocumentationError(_unclosed(origin, *opened))
    return found


def _unclosed(origin: str, name: str, first: int) -> str:
    return f"{origin}:{first}: the region {name!r} is not closed. Put {_END} after it, before the next one."


def rewritten(text: str, origin: str) -> str:
    """The page with every region written anew; the rest is as it was.

    Raises:
        DocumentationError: its markers are wrong, or the data of a region cannot be read.
    """
    lines, result, position = text.splitlines(), [], 0
    for region in find_regions(lines, origin):
        result += [*lines[position : region.first], "", *REGIONS[region.name]().strip("\n").splitlines(), ""]
        position = region.stop
    return "\n".join([*result, *lines[position:]]) + "\n"


def stale_regions(text: str, origin: str) -> Iterator[tuple[str, str]]:
    """Name and diff of every region of a page that is not what would be written.

    Raises:
        DocumentationError: as `rewritten`.
    """
    lines, new_lines = text.splitlines(), rewritten(text, origin).splitlines()
    for old, new in zip(find_regions(lines, origin), find_regions(new_lines, origin), strict=True):
        before, after = lines[old.first : old.stop], new_lines[new.first : new.stop]
        if before != after:
            diff = difflib.unified_diff(before, after, f"{origin} ({old.name})", "generated", lineterm="")
            yield old.name, "\n".join(diff)


def check(page: Path) -> list[tuple[str, str]]:
    """`stale_regions` of a file."""
    return list(stale_regions(page.read_text(encoding="utf-8"), _shown(page)))


def _shown(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else str(page)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a region is stale")
    parser.add_argument("--list", action="store_true", help="print every region, and write nothing")
    options = parser.parse_args(arguments)
    if options.list:
        for name, write in REGIONS.items():
            print(f"<!-- generated: {name} -->\n\n{write().strip()}\n\n{_END}\n")
        return 0
    try:
        stale = [(page, *found) for page in pages() for found in check(page)]
        for page in () if options.check else dict.fromkeys(page for page, _, _ in stale):
            write_atomically(page, rewritten(page.read_text(encoding="utf-8"), _shown(page)))
    except DitAccelError as error:
        print(error, file=sys.stderr)
        return 1
    for page, name, diff in stale:
        print(f"{_shown(page)}: {name} is stale\n{diff}\n" if options.check else f"{_shown(page)}: {name} written")
    if options.check and stale:
        print("Stale regions were found. Write them with: python docs/generate.py", file=sys.stderr)
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
