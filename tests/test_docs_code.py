"""The code in the documentation: names, keywords, commands and options that it uses exist."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import dit_accel
from dit_accel.cli import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "offline_profiles" / "README.md")
PAGES += tuple(sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?<![\w/.-])dit-accel (?P<rest>[a-z][^`'\n#]*)")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def problems_of_code(code: str) -> Iterator[str]:
    """Names of dit_accel that a block uses and that do not exist, and keywords that its functions do not take."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dit_accel":
            module = importlib.import_module(node.module or "")
            yield from (f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dit_accel":
            if not is_known(node.attr):
                yield f"dit_accel.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from unknown_keywords(node)


def is_known(name: str) -> bool:
    if hasattr(dit_accel, name):
        return True
    return importlib.util.find_spec(f"dit_accel.{name}") is not None


def unknown_keywords(call: ast.Call) -> Iterator[str]:
    function = resolved(call.func)
    if function is None:
        return
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in parameters:
            yield f"{ast.unparse(call.func)}({keyword.arg}=…)"


def resolved(node: ast.expr) -> Any:
    """What ``dit_accel.a.b`` stands for, or None."""
    names = ast.unparse(node).split(".")
    found: Any = dit_accel if names[0] == "dit_accel" else None
    for name in names[1:] if found is not None else ():
        found = getattr(found, name, None)
    return found if callable(found) else None


def problems_of_command(rest: str) -> Iterator[str]:
    """Whether ``dit-accel`` has the command, and it the options."""
    words = rest.split()
    group: Any = typer.main.get_command(app)
    if words[0] not in group.commands:
        yield f"dit-accel {words[0]}"
        return
    command = group.commands[words[0]]
    context = command.make_context(words[0], [], resilient_parsing=True)
    options = {name for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts)}
    given = re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)
    yield from (f"dit-accel {words[0]} {option}" for option in given if option not in options)


@every_page
def test_python_blocks_use_what_exists(page: Path) -> None:
    blocks = [match["code"] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert [problem for block in blocks for problem in problems_of_code(block)] == []


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    found = [match["rest"] for line in lines for match in COMMAND.finditer(line)]
    assert [problem for rest in found for problem in problems_of_command(rest)] == []


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("dit_accel.enable(pipe)", "dit_accel.enable"),
        ("from dit_accel.sparse import svg3_attention", "dit_accel.sparse.svg3_attention"),
        ("c = dit_accel.DBCacheConfig(treshold=1)", "dit_accel.DBCacheConfig(treshold=…)"),
        ("dit_accel.CacheSchedule.load(pth='a')", "dit_accel.CacheSchedule.load(pth=…)"),
    ],
)
def test_code_that_does_not_fit_is_found(code: str, problem: str) -> None:
    assert list(problems_of_code(code)) == [problem]


def test_commands_that_do_not_exist_are_found() -> None:
    assert list(problems_of_command("polish x")) == ["dit-accel polish"]
    assert list(problems_of_command("plan graph.json --bugdet 3 --out a-b.json")) == ["dit-accel plan --bugdet"]
