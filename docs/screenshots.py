"""Pictures of the command line: ``python docs/screenshots.py`` runs it and writes what it prints to ``docs/images/``.

It takes a minute or two, as one of the commands compares a report that it makes first.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 100
MADE_FIRST = "demo --prompts 2"  # writes dit-accel-demo/
PICTURES = {
    "help": "--help",
    "presets": "presets demo",
    "recommend": "recommend --speedup 2 --min-psnr 45",
    "plan": "plan offline_profiles/digits-wan/50-steps.graph.json --speedup 2.7",
    "compare": "compare offline_profiles/digits-wan/held-out.report.json dit-accel-demo/report.json",
}


def run(arguments: str) -> str:
    """What ``dit-accel`` prints at a terminal of `WIDTH` columns, with its colours."""
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    command = [sys.executable, "-m", "dit_accel.cli", *shlex.split(arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **terminal}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def picture(arguments: str, printed: str) -> str:
    """A command and what it printed, as SVG."""
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text(f"$ dit-accel {arguments}\n", style="bold"))
    console.print(Text.from_ansi(printed), no_wrap=True)
    return console.export_svg(title=f"dit-accel {arguments.split()[0]}")


def main() -> None:
    """Write every picture."""
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    run(MADE_FIRST)
    for name, arguments in PICTURES.items():
        (images / f"{name}.svg").write_text(picture(arguments, run(arguments)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
