"""The documentation site: builds without a warning, and asks for nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a browser loads by itself when it shows a page; links that one may follow are no matter.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*?\bsrc="?(https?:)?//|<link\b[^>]*?\bhref="?(https?:)?//"""
)
IMPORTED = re.compile(r"""url\(["']?(https?:)?//|@import\s+["'](https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building it in strict mode fails on a dead link, anchor or reference."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_and_the_pictures_that_they_show_are_there(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        html = site / ("index.html" if page.stem == "index" else f"{page.stem}/index.html")
        assert html.is_file()
        for source in re.findall(r'<img[^>]*src="([^"]+)"', html.read_text(encoding="utf-8")):
            assert (html.parent / source).is_file(), f"{page.name} shows {source}"
    assert list(site.rglob("error-graph.png"))
    assert not list(site.rglob("*.py")), "the generator is no page"


def test_the_api_page_documents_every_public_name(site: Path) -> None:
    import dit_accel

    html = (site / "api" / "index.html").read_text(encoding="utf-8")
    data = {"DEMO_INPUTS", "DitAccelError"}  # a constant, and the parent of the errors that are listed
    missing = [name for name in dit_accel.__all__ if f'id="dit_accel.{name}"' not in html]
    assert set(missing) <= data and "DitAccelError" in html


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for html in site.rglob("*.html"):
        assert not LOADED.search(html.read_text(encoding="utf-8")), html
    for css in site.rglob("*.css"):
        assert not IMPORTED.search(css.read_text(encoding="utf-8")), css


@pytest.mark.parametrize(
    "text",
    ['<script src="https://a.b/c.js">', '<link rel="x" href="//a.b/c.css">', '<img alt="x" src="http://a.b/c.png">'],
)
def test_what_is_loaded_from_elsewhere_is_found(text: str) -> None:
    assert LOADED.search(text) and not LOADED.search('<a href="https://a.b"><img src="c.png"><link href="../c.css">')
