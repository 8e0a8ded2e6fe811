"""The command line, from the app itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .markdown import code, table

_SOURCE = "*From the program: `python docs/generate.py`. The same is in `dit-accel COMMAND --help`.*\n"


def summary() -> str:
    """Every command and what it is for."""
    rows = [[code(f"dit-accel {name}"), _first_paragraph(command)] for name, command in _commands().items()]
    return table(["command", "what it does"], rows, text_columns=2) + f"\n{_SOURCE}"


def reference() -> str:
    """Usage and options of every command."""
    return (
        "\n".join(f"## dit-accel {name}\n\n{_described(name, each)}" for name, each in _commands().items())
        + f"\n{_SOURCE}"
    )


def _commands() -> dict[str, Any]:
    """Name -> command of the program, sorted."""
    import typer

    from dit_accel.cli import app

    group: Any = typer.main.get_command(app)
    return {name: group.commands[name] for name in sorted(group.commands) if not group.commands[name].hidden}


def _described(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["dit-accel", name, *command.collect_usage_pieces(context)])
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    rows = [[code(typed), " ".join(help_text.split())] for typed, help_text in records]
    return f"{_paragraphs(command)}\n\n```\n{usage}\n```\n\n" + table(["option", "meaning"], rows, text_columns=2)


def _first_paragraph(command: Any) -> str:
    return _paragraphs(command).split("\n\n")[0]


def _paragraphs(command: Any) -> str:
    """Its help, a line each paragraph; what follows a form feed is not shown in help either."""
    paragraphs = (command.help or "").split("\f")[0].strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("``", "`")


REGIONS: dict[str, Callable[[], str]] = {"command-summary": summary, "commands": reference}
