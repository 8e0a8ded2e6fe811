"""The program around the commands: what every command can do, and how errors become one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .output import Result, error_line, show

PROGRAM = "dit-accel"
Command = Callable[..., Result]
Json = Annotated[bool, typer.Option("--json", metavar="", help="print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="show the traceback of an error.")]
_INTERRUPTED = "interrupted; a profiling job continues from its workdir when it is run again"

app = typer.Typer(help="Faster Diffusers video pipelines, measured.", pretty_exceptions_enable=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, of ``argv`` or the program's own arguments.

    Returns:
        The exit code: 0 only on success, 1 after an error, which is one line on stderr, 130 after Ctrl-C.

    Raises:
        SystemExit: 2, after a line on stderr, if the command was not called as it can be.
    """
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # its hints at every call would tear the progress bars
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        code: int = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else PROGRAM
        message = error.format_message()
        error_line(f"{path}: {message}{'' if message.endswith(('.', '?')) else '.'} See {path} --help")
        raise SystemExit(2) from None
    return code


def add_command(function: Command, panel: str) -> None:
    """Add ``function`` to the program under its name, with its docstring as help, in a panel of the list of commands.

    Its parameters are the options and arguments. ``--json`` and ``--debug`` come with every command; a parameter
    ``progress`` is no option, but tells whether to show bars.
    """
    own = inspect.signature(function, eval_str=True)
    options = [parameter for name, parameter in own.parameters.items() if name != "progress"]

    @functools.wraps(function)
    def run(*, json: bool, debug: bool, **given: Any) -> int:
        if "progress" in own.parameters:
            given["progress"] = not json
        return _run(functools.partial(function, **given), json, debug)

    for name, kind in (("json", Json), ("debug", Debug)):
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind))
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what typer makes the options of
    app.command(cls=_ListsCommand, rich_help_panel=panel)(run)


def _run(function: Callable[[], Result], as_json: bool, debug: bool) -> int:
    try:
        result = function()
    except typer.TyperException:  # what only the command could see is wrong with its options
        raise
    except Exception as error:  # diffusers, too, refuses arguments: a ValueError on one line is all a user needs
        if debug:
            raise
        error_line(f"{type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        error_line(_INTERRUPTED)
        return 130
    show(result, as_json)
    if result.failure is not None:
        error_line(result.failure)
    return 0 if result.failure is None else 1


class _ListsCommand(TyperCommand):
    """Takes ``--seeds 0 1 2`` for ``--seeds 0 --seeds 1 --seeds 2``: a list goes on until the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, spread_lists(args, lists))


def spread_lists(words: Sequence[str], lists: set[str]) -> list[str]:
    """The words of a command with the name of each option of ``lists`` before every one of its values."""
    spread: list[str] = []
    current = None
    for word in words:
        if word.startswith("-") and not word[1:2].isdigit():
            current = word if word in lists else None
            spread.append(word)
        else:
            spread += [current, word] if current and spread[-1] != current else [word]
    return spread
