"""What gets shipped: sdist and wheel hold the whole package and nothing else, and the installed wheel works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("dit_accel", "pipelines", "offline_profiles")
ROOT_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
NEVER_SHIPPED = ("tests", "notebooks", "benchmarks", "docs")
# Shipped besides Python files; docs of a folder too.
DATA = {
    "dit_accel": {"py.typed", ".j2", ".css", ".js"},
    "pipelines": {".safetensors", ".json", ".md"},
    "offline_profiles": {".json", ".toml", ".md"},
}
# Stand-ins, so that each kind of data is checked whatever the tree holds at the moment.
STAND_INS = {
    "pipelines/digits_wan/weights/stand_in/model.safetensors": "x",
    "pipelines/digits_wan/weights/stand_in/config.json": "{}",
    "pipelines/digits_wan/STAND_IN.md": "x",
    "offline_profiles/jobs/stand-in.toml": "",
    "offline_profiles/stand-in/preset.json": "{}",
    "offline_profiles/stand-in/preset.report.json": "{}",
    "tests/test_stand_in.py": "",
    "notebooks/stand_in.ipynb": "{}",
    "benchmarks/stand_in.py": "",
    "docs/stand_in.md": "",
}
# Runs in a fresh interpreter whose first path entry is the folder that the wheel was installed into.
PROBE = """
import importlib, json, sys
from importlib.resources import files
sys.path.insert(0, sys.argv[1])
names = ["dit_accel", "dit_accel.pipelines.digits_wan.captions", "dit_accel.offline_profiles"]
where = {name: importlib.import_module(name).__file__ for name in names}
data = files("dit_accel.offline_profiles").joinpath("stand-in").joinpath("preset.json").read_text()
weights = files("dit_accel.pipelines.digits_wan").joinpath("weights").joinpath("stand_in")
page = files("dit_accel.quality").joinpath("templates").joinpath("report.html.j2").read_text()
found = {"where": where, "data": data, "page": page, "weights": weights.joinpath("model.safetensors").read_text()}
json.dump(found, sys.stdout)
"""


class Dist(NamedTuple):
    """The built files, and every name in them without the sdist's own top folder."""

    wheel: Path
    wheel_names: set[str]
    sdist_names: set[str]
    log: str


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what a build reads, so that building leaves nothing in the working tree."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ROOT_FILES:
        shutil.copy(ROOT / name, copy / name)
    for name, text in STAND_INS.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def dist(tree, tmp_path_factory) -> Dist:
    """The sdist of the tree, and the wheel that is built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    log = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        wheel_names = {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(sdist) as archive:
        members = [PurePosixPath(member.name).parts[1:] for member in archive if member.isfile()]
    return Dist(wheel, wheel_names, {"/".join(parts) for parts in members}, log)


def shipped_files(tree: Path) -> set[str]:
    """What the wheel must hold, by the tree: Python files and the kinds of data, under their installed names."""
    wanted = set()
    for folder in SOURCES:
        for path in (tree / folder).rglob("*"):
            if path.suffix == ".py" or {path.suffix, path.name} & DATA[folder]:
                inside = path.relative_to(tree).as_posix()
                wanted.add(inside if folder == "dit_accel" else f"dit_accel/{inside}")
    return wanted


def test_wheel_holds_exactly_the_package(tree, dist):
    found = {name for name in dist.wheel_names if ".dist-info/" not in name}
    assert found == shipped_files(tree)


def test_wheel_has_license_entry_point_and_typing_marker(dist):
    assert "dit_accel/py.typed" in dist.wheel_names
    with zipfile.ZipFile(dist.wheel) as archive:
        (entry_points,) = (name for name in dist.wheel_names if name.endswith(".dist-info/entry_points.txt"))
        assert "dit-accel = dit_accel.cli:main" in archive.read(entry_points).decode()
        (license_file,) = (name for name in dist.wheel_names if name.endswith("/licenses/LICENSE"))
        assert "Apache License" in archive.read(license_file).decode()


def test_sdist_holds_the_package_and_what_builds_it(tree, dist):
    sources = {path.relative_to(tree).as_posix() for folder in SOURCES for path in (tree / folder).rglob("*.*")}
    files = {name for name in sources if (tree / name).is_file()}
    assert files | set(ROOT_FILES) <= dist.sdist_names
    assert not [name for name in dist.sdist_names if name.split("/")[0] in NEVER_SHIPPED]


def test_build_has_no_complaints_about_the_packages(dist):
    assert "Deprecat" not in dist.log
    assert "absent from the `packages` configuration" not in dist.log


def test_installed_wheel_imports_and_reads_its_data(dist, tmp_path):
    target = tmp_path / "installed"
    run(
        sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, dist.wheel, cwd=tmp_path
    )
    report = json.loads(run(sys.executable, "-c", PROBE, target, cwd=tmp_path))
    assert all(Path(file).is_relative_to(target) for file in report["where"].values()), report["where"]
    assert report["data"] == "{}"
    assert report["weights"] == "x"
    assert report["page"].startswith("<!doctype html>")


def test_working_tree_resolves_the_mapped_packages():
    """The install that runs these tests, editable or not, finds the packages under their installed names."""
    code = (
        "import dit_accel.pipelines.digits_wan, dit_accel.offline_profiles as o; print(o.__name__);"
        "import importlib.resources as r; print(r.files(o).joinpath('__init__.py').is_file())"
    )
    assert run(sys.executable, "-c", code, cwd=Path(sys.prefix)).split() == ["dit_accel.offline_profiles", "True"]
