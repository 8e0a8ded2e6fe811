"""The notebooks as files: in order, valid, without outputs, and in step with the names of the package.

`make notebooks` executes them; nothing is executed here.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import dit_accel

FILES = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
Notebook = dict[str, Any]
every_notebook = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> Notebook:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_of(notebook: Notebook) -> list[ast.Module]:
    return [ast.parse(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def format_problems(notebook: Notebook) -> Iterator[str]:
    """What would make a diff noisy, or a notebook look run when it was not."""
    if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
        yield f"format {notebook['nbformat']}.{notebook['nbformat_minor']}"
    if notebook["metadata"] != {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}:
        yield f"metadata {dict(notebook['metadata'])}"
    for number, cell in enumerate(notebook["cells"]):
        if cell["id"] != f"cell-{number}" or cell["metadata"]:
            yield f"cell {number} has the id {cell['id']!r} and the metadata {dict(cell['metadata'])}"
        if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"] is not None):
            yield f"cell {number} holds what a run has left"


def text_problems(notebook: Notebook) -> Iterator[str]:
    """A title first and once; and something that a run can fail at."""
    texts = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    titles = [line for text in texts for line in text.splitlines() if re.match(r"# \S", line)]
    if notebook["cells"][0]["cell_type"] != "markdown" or titles != notebook["cells"][0]["source"].splitlines()[:1]:
        yield f"does not start with its one title: {titles}"
    if not any(isinstance(node, ast.Assert) for tree in code_of(notebook) for node in ast.walk(tree)):
        yield "asserts nothing"


def name_problems(notebook: Notebook) -> Iterator[str]:
    """Names of the package that are private or do not exist, and packages that are not there."""
    for node in (node for tree in code_of(notebook) for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from module_problems(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found = list(module_problems(module))
            yield from found
            if module.partition(".")[0] == "dit_accel" and not found:
                names = {alias.name for alias in node.names}
                yield from (f"{module} has no public name {name}" for name in names if not is_public(module, name))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dit_accel":
            yield from () if node.attr in dit_accel.__all__ else (f"dit_accel exports no {node.attr}",)


def module_problems(name: str) -> Iterator[str]:
    top = name.partition(".")[0]
    if importlib.util.find_spec(name if top == "dit_accel" else top) is None:
        yield f"there is no module {name}"
    if any(part.startswith("_") for part in name.split(".")):
        yield f"{name} is private"


def is_public(module: str, name: str) -> bool:
    return not name.startswith("_") and hasattr(importlib.import_module(module), name)


def test_numbers_have_no_gaps() -> None:
    assert [path.name[:3] for path in FILES] == [f"{number:02}_" for number in range(1, 7)]


@every_notebook
def test_is_valid(path: Path) -> None:
    nbformat.validate(read(path))


@every_notebook
@pytest.mark.parametrize("problems", [format_problems, text_problems, name_problems])
def test_has_no_problem(path: Path, problems: Callable[[Notebook], Iterator[str]]) -> None:
    assert list(problems(read(path))) == []


def broken(change: Callable[[Notebook, Any], object]) -> Notebook:
    """The first notebook, after ``change`` of it and of its first code cell."""
    notebook = copy.deepcopy(read(FILES[0]))
    change(notebook, next(cell for cell in notebook["cells"] if cell["cell_type"] == "code"))
    return notebook


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook, cell: cell.update(execution_count=1),
        lambda notebook, cell: cell.update(id="a1b2c3"),
        lambda notebook, cell: cell["outputs"].append(nbformat.v4.new_output("stream", text="hello")),
        lambda notebook, cell: notebook["metadata"].update(language_info={"version": "3.11"}),
    ],
)
def test_what_a_run_leaves_is_found(change: Callable[[Notebook, Any], object]) -> None:
    assert list(format_problems(broken(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook, cell: notebook["cells"].pop(0),
        lambda notebook, cell: notebook["cells"][2].update(source="# Another title"),
        lambda notebook, cell: notebook["cells"].pop(),  # with the only assertion
    ],
)
def test_a_missing_title_or_assertion_is_found(change: Callable[[Notebook, Any], object]) -> None:
    assert list(text_problems(broken(change)))


@pytest.mark.parametrize(
    "source",
    [
        "import a_package_that_nobody_has",
        "import dit_accel.a_module_without_file",
        "from dit_accel._diffusers import denoisers_of",
        "from dit_accel.quality import a_metric_without_name",
        "from dit_accel import api\napi\ndit_accel.enable_cache(pipe)",
    ],
)
def test_a_name_that_is_not_there_is_found(source: str) -> None:
    assert list(name_problems(broken(lambda notebook, cell: cell.update(source=source))))
