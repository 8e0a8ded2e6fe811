"""Nothing here runs what a file says: no pickles, no code, no shell, no import of a name that comes from data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("dit_accel", "pipelines", "offline_profiles", "benchmarks", "docs")
SOURCES = [*sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ROOT / "setup.py"]

BUILTINS = {"eval", "exec", "compile", "__import__"}
UNSAFE = (
    *("pickle.*", "cloudpickle.*", "dill.*", "joblib.*", "marshal.*", "shelve.*", "yaml.*"),
    *("torch.load", "torch.jit.load", "torch.hub.load*", "torch.hub.download*", "numpy.load", "ctypes.*"),
    *(
        "os.system",
        "os.popen",
        "os.spawn*",
        "os.exec*",
        "os.posix_spawn*",
        "subprocess.*",
        "asyncio.create_subprocess*",
    ),
    *("importlib.import_module", "importlib.util.*", "importlib.machinery.*", "runpy.*", "code.*", "codeop.*"),
    *("ast.literal_eval", "pydoc.locate", "pkgutil.resolve_name", "tempfile.mktemp", "tempfile.NamedTemporaryFile"),
    *("urllib.request.*", "requests.*", "httpx.*", "socket.*", "builtins.eval", "builtins.exec", "builtins.compile"),
)
HARMLESS = ("*Error", "*Expired", "subprocess.PIPE", "subprocess.STDOUT", "subprocess.DEVNULL")
KEYWORDS = {"shell", "trust_remote_code", "allow_pickle"}  # may be passed as False only
# file: call -> why it may
JUSTIFIED = {
    "dit_accel/__init__.py": {"importlib.import_module": "a module out of a table in the same file"},
    "dit_accel/quality/__init__.py": {"importlib.import_module": "a module out of a table in the same file"},
    "dit_accel/quality/metrics.py": {
        "import_module": "scikit-image, an optional package, by its constant name",
        "find_spec": "asks whether a package is there, by its constant name",
    },
    "dit_accel/quality/page.py": {"find_spec": "asks whether a package is there, by its constant name"},
    "dit_accel/quality/perceptual.py": {
        "find_spec": "the folder of a package with weights, by its constant name",
        "torch.load": "published weights, weights_only=True, after their whole SHA-256 was compared",
        "torch.hub.download_url_to_file": "a constant address, compared with its SHA-256 before it gets its name",
    },
    "dit_accel/registry.py": {"importlib.import_module": "the modules of our own package dit_accel.pipelines"},
    "dit_accel/sparse/backends.py": {"importlib.import_module": "a module out of a table in the same file"},
    "dit_accel/sparse/triton_backend.py": {"importlib.import_module": "triton, by its constant name"},
    "dit_accel/_diffusers/attention.py": {"importlib.import_module": "a module that the specification in code names"},
    "dit_accel/cli/options.py": {"ast.literal_eval": "a literal that the user typed after --set, never from a file"},
    "benchmarks/bench.py": {"subprocess.run": "our own benchmarks, as a list of arguments"},
    "benchmarks/gpu_attention.py": {"__import__": "optional packages out of a constant tuple"},
    "benchmarks/gpu_clock.py": {"subprocess.run": "the driver's own tool, as a list of arguments"},
    "benchmarks/walking/world.py": {
        "pickle.dumps": "asks whether an accelerated pipeline refuses, or survives, a copy",
        "pickle.loads": "of what the line before it wrote",
    },
    "docs/screenshots.py": {"subprocess.run": "our own program, as a list of arguments"},
    "docs/regions/sparse.py": {"import_module": "the backends' modules, listed from the source tree"},
}


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it is, wherever it is imported: ``from pickle import loads as read`` hides nothing."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found |= {alias.asname: alias.name} if alias.asname else {top: top}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.expr) -> str:
    """``a.b.c`` as it stands; empty if it hangs on something else than a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def unsafe_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What is named that could run code, called or not; with the line."""
    imported = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and (name := dotted(node)):
            head, dot, rest = name.partition(".")
            full = f"{imported[head]}{dot}{rest}" if head in imported else ""
            is_unsafe = name in BUILTINS or any(fnmatchcase(full, pattern) for pattern in UNSAFE)
            if is_unsafe and not any(fnmatchcase(full, pattern) for pattern in HARMLESS):
                yield node.lineno, name
        elif isinstance(node, ast.Call):
            for word in node.keywords:
                if word.arg in KEYWORDS and ast.unparse(word.value) != "False":
                    yield node.lineno, word.arg


def careless_loads(tree: ast.Module) -> Iterator[int]:
    """Lines where torch would unpickle more than weights."""
    for node in ast.walk(tree):
        is_load = isinstance(node, ast.Call) and dotted(node.func) == "torch.load"
        if is_load and "weights_only=True" not in ast.unparse(node):
            yield node.lineno


def problems(path: str, source: str) -> list[str]:
    return problems_of(path, ast.parse(source))


def problems_of(path: str, tree: ast.Module) -> list[str]:
    justified = JUSTIFIED.get(path, {})
    found = [f"{path}:{line}: {name}" for line, name in unsafe_names(tree) if name not in justified]
    return found + [f"{path}:{line}: torch.load without weights_only=True" for line in careless_loads(tree)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_nothing_runs_what_a_file_says_and_every_exception_is_needed() -> None:
    trees = {name_of(path): ast.parse(path.read_text("utf-8")) for path in SOURCES}
    assert [problem for path, tree in trees.items() for problem in problems_of(path, tree)] == []
    used = {(path, name) for path, tree in trees.items() if path in JUSTIFIED for _, name in unsafe_names(tree)}
    needed = {(path, name) for path, names in JUSTIFIED.items() for name in names if (ROOT / path).exists()}
    assert needed <= used


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(compile(text, 'x', 'exec'))",
        "import builtins\nbuiltins.eval(text)",
        "__import__(name)",
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import Unpickler as U\nU(file).load()",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=True)",
        "from torch import load\nload(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.safe_load(text)",
        "import os\nos.system('ls')",
        "import os\nos.popen('ls')",
        "import subprocess\nsubprocess.run(['ls'])",
        "from subprocess import run\nrun('ls', shell=True)",
        "anything(shell=True)",
        "import importlib\nimportlib.import_module(document['module'])",
        "from importlib import import_module as load\nload(name)",
        "DiffusionPipeline.from_pretrained(source, trust_remote_code=True)",
        "import tempfile\ntempfile.mktemp()",
        "read = eval",
        "import pickle\nread = pickle.loads",
        "import torch\ntorch.hub.load('me/repo', 'model')",
    ],
)
def test_what_would_run_code_is_found(source: str) -> None:
    assert problems("dit_accel/anything.py", source)


@pytest.mark.parametrize(
    "source",
    ["re.compile(x)", "model.eval()", "self.eval().requires_grad_(False)", "file.load()", "json.loads(text)"],
)
def test_what_only_looks_alike_passes(source: str) -> None:
    assert problems("dit_accel/anything.py", source) == []


def test_weights_may_be_read_only_as_weights() -> None:
    assert problems("dit_accel/quality/perceptual.py", "import torch\ntorch.load(path)")
    assert not problems("dit_accel/quality/perceptual.py", "import torch\ntorch.load(path, weights_only=True)")


def test_nothing_that_ships_is_a_pickle_or_a_program() -> None:
    allowed = {".py", ".typed", ".j2", ".css", ".js", ".json", ".toml", ".md", ".safetensors", ".png"}
    shipped = [
        path for folder in ("dit_accel", "pipelines", "offline_profiles") for path in (ROOT / folder).rglob("*")
    ]
    found = {path.suffix for path in shipped if path.is_file() and "__pycache__" not in path.parts}
    assert found <= allowed
