"""Who may import whom, and the few other rules of the house that a linter does not know. See ARCHITECTURE.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"dit_accel": "dit_accel"} | {name: f"dit_accel.{name}" for name in ("pipelines", "offline_profiles")}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 50
ANY = ("*",)


class Row(NamedTuple):
    """What the modules under a prefix may import: modules of this project, and packages of others.

    ``lazy``, of either kind, is allowed inside functions and for type checkers only. An import for type checkers may
    also name any package of others.
    """

    module: str
    project: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    lazy: tuple[str, ...] = ()


BASE = ("errors", "documents", "actions", "schedule", "configs", "specs")
REPORTS = ("numpy", "skimage", "scipy", "lpips", "stlpips_pytorch", "safetensors", "jinja2", "matplotlib")
INSTALLED = (*BASE, "_diffusers", "installation", "run_record", "running", "step_tracker")
FAMILY = (*BASE, "registry")
GRAPH_NAMES = ("residual_model", "step_actions", "error_graph", "planner", "joint", "resample")
GRAPH = tuple(f"profiling.{name}" for name in GRAPH_NAMES)
MODELS = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "PIL")

ANYTHING = ("profiling", "quality.report", "quality.provenance", "showcase", "cli", "bench", "self_test", "timed_run")
# The longest matching prefix counts. A new module needs a row, or it fails here.
TABLE = (
    *(Row(name) for name in ("errors", "offline_profiles", "running")),
    Row("documents", ("errors",)),
    *(Row(name, ("errors", "documents")) for name in ("actions", "rows")),
    Row("schedule", ("errors", "documents", "actions"), (), ("hub",)),
    Row("hub", ("errors", "documents"), (), ("huggingface_hub",)),
    Row("configs", ("errors", "documents", "schedule")),
    Row("specs", BASE),
    Row("registry", (*BASE, "pipelines")),
    *(Row(name, (), ("torch",)) for name in ("stopwatch", "peak_memory")),
    Row("step_tracker", BASE, ("torch",)),
    Row("_diffusers", (*BASE, "_diffusers", "stopwatch", "step_tracker"), ("torch", "diffusers")),
    Row("run_record", ("stopwatch", "step_tracker"), ("torch",)),
    Row("installation", INSTALLED, ("torch",)),
    Row("cache", (*INSTALLED, "cache"), ("torch",)),
    Row("kernels", (*BASE, "kernels"), ("torch", "triton")),
    Row("sparse", (*BASE, "kernels", "sparse"), ("torch",), ("matplotlib", "triton", "flashinfer")),
    *(Row(f"sparse.{name}", (*INSTALLED, "kernels", "sparse"), ("torch",)) for name in ("install", "layers")),
    Row("scheduled", (*BASE, "installation", "cache.install", "cache.policies", "sparse.install")),
    *(Row(name, ANY, ANY) for name in ANYTHING),
    Row("profiling.residual_model", (*BASE, "cache.forecast"), ("numpy",)),
    *(Row(f"profiling.{name}", ("errors", "documents")) for name in ("step_actions", "dispatch")),
    Row("profiling.error_graph", (*BASE, *GRAPH[:2]), (), (*GRAPH, "profiling.graph_plot", "networkx")),
    Row("profiling.graph_plot", (*BASE, *GRAPH), (), ("matplotlib",)),
    *(Row(f"profiling.{name}", (*BASE, *GRAPH)) for name in ("planner", "joint")),
    Row("quality", (*BASE, "quality", "registry"), ("torch", "numpy", "imageio"), (*REPORTS, "hub")),
    Row("quality.charts", ("quality",), ("matplotlib",)),
    Row("api", (*INSTALLED, "registry", "cache", "scheduled", "sparse"), ("torch",), ("recommend",)),
    Row("recommend", (*BASE, "registry", "api", "quality.front", "quality.records")),
    *(Row(name, ANY, (), ANY) for name in ("demo", "loading", "profiling.ray_pool")),
    Row("", ANY, ()),
    Row("pipelines", FAMILY, (), (*MODELS, "pipelines.digits_wan", "pipelines.tiny")),
    Row("pipelines.tiny", ("pipelines.tiny",), MODELS),
    Row("pipelines.digits_wan", (*FAMILY, "pipelines.digits_wan"), (*MODELS, "safetensors", "sklearn"), ("tqdm",)),
    Row("pipelines.digits_wan.build", (*FAMILY, "pipelines.digits_wan", "demo"), MODELS, ("tqdm",)),
)
# The insides of diffusers: hooks, and the attention dispatcher. Only the package _diffusers may know of them.
SEAM = ("diffusers.hooks", "diffusers.models.attention_dispatch")
SEAM_ATTRIBUTE = "_diffusers_hook"
MAY_PRINT = ("pipelines.digits_wan.build", "pipelines.digits_wan.train")


@dataclass(frozen=True)
class Module:
    """A source file under the name it is installed by, without the leading ``dit_accel.``."""

    name: str
    is_package: bool
    source: str

    @property
    def row(self) -> Row | None:
        rows = [row for row in TABLE if row.module == self.name or (row.module and within(self.name, row.module))]
        return max(rows, key=lambda row: len(row.module), default=None)


def read_modules() -> dict[str, Module]:
    modules = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            full = ".".join((package, *(parts[:-1] if is_package else parts)))
            name = full.removeprefix("dit_accel").removeprefix(".")
            modules[name] = Module(name, is_package, path.read_text(encoding="utf-8"))
    return modules


MODULES = read_modules()
every_module = pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name or "dit_accel")


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


class Import(NamedTuple):
    name: str
    kind: str  # "load": runs when the module is imported; "lazy": inside a function; "type": for type checkers


def imports_of(module: Module) -> Iterator[Import]:
    """Every import of a module, absolute; names of this project start with ``dit_accel``."""
    for node, kind in walk_with_kind(ast.parse(module.source), "load"):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, kind) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                is_attribute = within(base, "dit_accel") and full.removeprefix("dit_accel.") not in MODULES
                yield Import(base if is_attribute else full, kind)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            named = [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            yield from (Import(name, kind) for name in named if not name.startswith("."))


def walk_with_kind(node: ast.AST, kind: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inner = kind
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = "lazy" if kind == "load" else kind
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "type"
        yield child, inner
        yield from walk_with_kind(child, inner)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = f"dit_accel.{module.name}".rstrip(".").split(".")
    up = node.level - module.is_package
    return ".".join([*package[: len(package) - up], *([node.module] if node.module else [])])


def import_problems(module: Module) -> list[str]:
    row = module.row
    if row is None:
        return [f"{module.name} has no row in the table of {Path(__file__).name}"]
    problems = []
    for name, kind in imports_of(module):
        top = name.partition(".")[0]
        if top in ("pipelines", "offline_profiles"):
            problems.append(f"{name}: import dit_accel.{name}")
        elif top == "dit_accel":
            target = name.removeprefix("dit_accel").removeprefix(".")
            prefixes = (*row.project, *(row.lazy if kind != "load" else ()))
            allowed = row.project == ANY or any(within(target, prefix) for prefix in prefixes)
            problems += [] if allowed else [f"{module.name} may not import {name}"]
        elif top not in sys.stdlib_module_names and kind != "type":
            allowed_packages = {*row.others, *(row.lazy if kind == "lazy" else ())}
            problems += [] if {"*", top} & allowed_packages else [f"{module.name} may not import {name} ({kind})"]
        if any(within(name, inside) for inside in SEAM) and not within(module.name, "_diffusers"):
            problems.append(f"{module.name} imports {name}, which only _diffusers may")
    return problems


def code_problems(module: Module) -> list[str]:
    problems = []
    if (lines := len(module.source.splitlines())) > MAX_FILE_LINES:
        problems.append(f"{lines} lines, at most {MAX_FILE_LINES}")
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > MAX_FUNCTION_LINES:
            problems.append(f"{node.name} has {code_lines(node)} lines of code, at most {MAX_FUNCTION_LINES}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            problems += [] if module.name in MAY_PRINT else [f"print in line {node.lineno}"]
        word = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
        if word == SEAM_ATTRIBUTE and not within(module.name, "_diffusers"):
            problems.append(f"{SEAM_ATTRIBUTE} in line {node.lineno}, which only _diffusers may touch")
    return problems


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    return span(node) - (span(docstring) if docstring else 0)


def span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def undocumented(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in undocumented(node))


@every_module
def test_imports_only_what_its_row_allows(module):
    assert import_problems(module) == []


@every_module
def test_size_print_and_seam(module):
    assert code_problems(module) == []


@every_module
def test_public_names_have_docstrings(module):
    assert list(undocumented(ast.parse(module.source))) == []


def test_every_row_of_the_core_is_in_use():
    assert {"", "errors", "schedule", "configs", "pipelines", "offline_profiles"} <= set(MODULES)


BAD_IMPORTS = [
    ("schedule", "from .configs import LeMiCaConfig"),
    ("schedule", "from .hub import download"),
    ("configs", "def f():\n    import numpy"),
    ("documents", "from . import schedule"),
    ("specs", "from dit_accel import registry"),
    ("registry", "from . import api"),
    ("cache.executor", "from diffusers import WanPipeline"),
    ("step_tracker", "from ._diffusers import find_blocks"),
    ("sparse.svg2", "from .. import _diffusers"),
    ("sparse.svg2", "import flashinfer"),
    ("quality.metrics", "import importlib\ndef f():\n    importlib.import_module('diffusers')"),
    ("quality.metrics", "import skimage"),
    ("quality.metrics", "from ..api import enable_acceleration"),
    ("api", "from .cli import main"),
    ("api", "import dit_accel"),
    ("cli", "from diffusers.hooks import HookRegistry"),
    ("cli", "from diffusers.models import attention_dispatch"),
    ("cli", "import pipelines.wan"),
    ("cli", "from offline_profiles import jobs"),
    ("pipelines.wan", "import diffusers"),
    ("pipelines.wan", "from .tiny.text import PROMPT"),
    ("pipelines.tiny.wan", "from ..wan import WAN"),
    ("pipelines.wan", "from ..api import enable_acceleration"),
    ("pipelines.wan", "def tiny():\n    from diffusers.hooks import apply_group_offloading"),
    ("pipelines.digits_wan.vae", "from ...cli import main"),
    ("a_module_without_row", ""),
]
GOOD_IMPORTS = [
    ("configs", "from .errors import ConfigError\nfrom . import schedule\nimport json"),
    ("configs", "if TYPE_CHECKING:\n    import diffusers"),
    ("quality.metrics", "import torch\ndef f():\n    import skimage"),
    ("sparse.install", "from .. import _diffusers"),
    ("pipelines.wan", "from ..specs import PipelineSpec\ndef tiny():\n    from diffusers import WanPipeline"),
    ("pipelines.wan", "def tiny():\n    from .tiny.text import PROMPT\n    from PIL import Image"),
    ("pipelines.digits_wan.vae", "from diffusers import AutoencoderKLWan\nfrom .captions import words"),
    ("_diffusers.blocks", "from diffusers.hooks import HookRegistry"),
]


@pytest.mark.parametrize(("name", "source"), BAD_IMPORTS + GOOD_IMPORTS)
def test_forbidden_imports_are_found_and_allowed_ones_pass(name, source):
    assert bool(import_problems(Module(name, False, source))) == ((name, source) in BAD_IMPORTS)


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n" * (MAX_FILE_LINES + 1),
        "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES,
        "print('hello')",
        "module._diffusers_hook.remove()",
        "getattr(module, '_diffusers_hook')",
    ],
)
def test_a_broken_house_rule_is_found(source):
    assert code_problems(Module("api", False, source))


def test_a_long_docstring_is_no_long_function():
    source = 'def f():\n    """A.\n' + "    line\n" * 60 + '    """\n' + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)
    assert code_problems(Module("api", False, source)) == []


def test_a_missing_docstring_is_found():
    tree = ast.parse("def f(): ...\ndef _g(): ...\nclass C:\n    def m(self): ...\n    def __init__(self): ...\n")
    assert list(undocumented(tree)) == ["f", "C", "C.m"]
