"""The documentation: generated tables are current, links lead somewhere, and no figure is written by hand."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))  # as for `python docs/generate.py`

import figures
import generate
from regions import REGIONS
from regions.data import COMMANDS, RESULTS, DocumentationError, Result
from regions.markdown import table

ROOT = Path(__file__).parents[1]
PROFILES_PAGE = ROOT / "offline_profiles" / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
LINKED = (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", PROFILES_PAGE, *DOCS)
# Pages whose figures all come from regions.
GENERATED = (*DOCS, PROFILES_PAGE, ROOT / "README.md")
# Figures in prose that nobody measures: what is asked for, not what was found.
ALLOWED = {"S × S", "100 dB"}

FIGURE = re.compile(
    r"(?<![\w.])[\d.,]*\d\s*(?:dB|×|%|ms\b|milliseconds\b|seconds\b|minutes\b|hours\b|[KMG]i?B\b|times\b|generations\b|x\b)"
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def prose(text: str, origin: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines outside regions and code, code spans taken out."""
    lines = text.splitlines()
    generated = {k for region in generate.find_regions(lines, origin) for k in range(region.first, region.stop)}
    is_code = False
    for number, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and number not in generated:
            yield number + 1, re.sub(r"`[^`]*`", "`", line)


def hand_written_figures(text: str, origin: str) -> list[str]:
    found = []
    for number, line in prose(text, origin):
        for allowed in ALLOWED:
            line = line.replace(allowed, "")
        found += [f"{origin}:{number}: {match[0]}" for match in FIGURE.finditer(line)]
    return found


def anchors(page: Path) -> set[str]:
    """Those that Markdown readers give to headings."""
    headings = [line.lstrip("#").strip() for _, line in prose_with_code(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def prose_with_code(page: Path) -> Iterator[tuple[int, str]]:
    is_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines()):
        is_code ^= line.lstrip().startswith("```")
        if not is_code:
            yield number, line


def test_every_region_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    code = generate.main(["--check"])
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", figures.SOURCES)
def test_pictures_are_drawn_from_what_is_committed(name: str) -> None:
    assert figures.digest(name) in (figures.IMAGES / name).read_text(encoding="utf-8"), "run python docs/figures.py"


def test_every_region_is_on_a_page() -> None:
    shown = {
        region.name
        for page in generate.pages()
        for region in generate.find_regions(page.read_text(encoding="utf-8").splitlines(), page.name)
    }
    assert set(REGIONS) <= shown, "a region that nobody sees"


@pytest.mark.parametrize("name", REGIONS)
def test_a_staled_region_is_found_by_name_with_what_changed(name: str) -> None:
    text = f"before\n<!-- generated: {name} -->\n<!-- end -->\nafter\n"
    fresh = generate.rewritten(text, "page.md")
    assert fresh.startswith("before\n") and fresh.endswith("<!-- end -->\nafter\n")
    assert list(generate.stale_regions(fresh, "page.md")) == [] and generate.rewritten(fresh, "page.md") == fresh
    lines = fresh.splitlines()
    number = next(k for k, line in enumerate(lines) if k > 2 and line.strip())
    lines[number] += " 99.99 dB"
    ((stale, diff),) = generate.stale_regions("\n".join(lines), "page.md")
    assert stale == name and f"-{lines[number]}" in diff


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "page.md"
    found.write_text("<!-- generated: model-size -->\nold\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(generate, "pages", lambda: [found])
    return found


def test_check_writes_nothing_and_fails_and_writing_makes_it_pass(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = page.read_text(encoding="utf-8")
    assert generate.main(["--check"]) == 1 and page.read_text(encoding="utf-8") == before
    found = capsys.readouterr()
    assert "model-size" in found.out and "-old" in found.out and "python docs/generate.py" in found.err
    assert generate.main([]) == 0 and page.read_text(encoding="utf-8") != before
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- generated: headlin -->\n<!-- end -->", "no region 'headlin'.*Did you mean 'headline'"),
        ("<!-- generated: headline -->\ntext", "page.md:1: the region 'headline' is not closed"),
        ("<!-- generated: headline -->\n<!-- generated: jobs -->\n<!-- end -->", "'headline' is not closed"),
        ("text\n<!-- end -->", "page.md:2: <!-- end --> closes nothing"),
        ("text <!-- generated: headline -->\n<!-- end -->", "is no marker"),
        ("<!-- generated headline -->", "is no marker"),
    ],
)
def test_wrong_markers_are_refused(text: str, message: str, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DocumentationError, match=message):
        generate.rewritten(text, "page.md")
    page.write_text(text, encoding="utf-8")
    assert generate.main([]) == 1 and capsys.readouterr().err.count("\n") == 1
    assert page.read_text(encoding="utf-8") == text


def test_a_row_that_is_missing_or_twice_there_is_no_figure() -> None:
    row = {"subject": "a", "setting": {"budget": 2}, "figures": {"psnr_db": 1.0}}
    found = Result("svg2_speed", "2026-01-01", "machine", {}, (row, row, {**row, "subject": "b"}))
    assert found.figures("b", budget=2) == {"psnr_db": 1.0}
    for subject, budget in (("a", 2), ("b", 3), ("c", 2)):
        with pytest.raises(DocumentationError, match="and one is needed"):
            found.figures(subject, budget=budget)


def test_a_table_has_as_many_cells_as_columns() -> None:
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    with pytest.raises(ValueError, match="2 columns"):
        table(["a", "b"], [["x"]])


def test_every_result_has_a_command_that_writes_it() -> None:
    assert set(COMMANDS) == {path.stem for path in RESULTS.glob("*.json")}
    for command in COMMANDS.values():
        script = ROOT / command.split()[1]
        assert '"--out"' in script.read_text(encoding="utf-8"), f"{command} writes no result"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for number, line in prose(page.read_text(encoding="utf-8"), page.name):
        for match in LINK.finditer(line):
            path, _, anchor = match["target"].partition("#")
            if match["target"].startswith(("https://", "http://")):
                continue
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}:{number} links to {match['target']}, which does not exist"
            if anchor:
                assert anchor in anchors(target), f"{page.name}:{number}: {match['target']} has no such heading"


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_figure_is_written_by_hand(page: Path) -> None:
    assert hand_written_figures(page.read_text(encoding="utf-8"), page.name) == []


@pytest.mark.parametrize(
    "text",
    ["is 2.71× faster", "at 53.5 dB", "97.7 % of", "58% of", "took 55 ms", "1,024 KiB", "152 generations", "3 times"],
)
def test_a_figure_written_by_hand_is_found(text: str) -> None:
    assert len(hand_written_figures(f"It {text} now.", "page.md")) == 1
    assert hand_written_figures(f"<!-- generated: jobs -->\n{text}\n<!-- end -->\n`{text}`", "page.md") == []


def test_pages_are_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in DOCS if f": {page.name}\n" not in config] == []
