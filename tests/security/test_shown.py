"""What is shown of files and prompts is text: on the report page, in Markdown, and at a terminal."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dit_accel.cli import output
from dit_accel.cli.output import Result, Table, error_line, show, status, visible
from dit_accel.errors import ConfigError
from dit_accel.quality import QualityReport, charts

from .conftest import HOSTILE, report_of

ALL_TEXTS = "\n".join(text for text in HOSTILE if text != "\ud800")
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._is_script = tag == "script"
        if self._is_script:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Elements, Elements]:
    """A page in which every text is all that is hostile, and the same page of a report without malice."""
    folder = tmp_path_factory.mktemp("videos")
    pages = []
    for text in (ALL_TEXTS, "fine"):
        path = folder / "report.json"
        path.write_text(json.dumps(report_of(text)), encoding="utf-8")
        for name in ("00", "01", "01-difference"):
            (folder / f"prompt000-seed7-{name}.mp4").write_bytes(b"\0\0\0\x20ftypisom")
        QualityReport.load(path, videos=folder).to_html(folder / "page.html")
        pages.append(Elements((folder / "page.html").read_text(encoding="utf-8")))
    return pages[0], pages[1]


def shape(elements: Elements) -> list[tuple[str, list[str]]]:
    """Without the insides of drawings, where more lines are more elements."""
    drawn = {"g", "path", "text", "tspan", "use", "defs", "clippath", "rect"}
    return [(tag, sorted(attributes)) for tag, attributes in elements.found if tag not in drawn]


def test_texts_make_no_elements_and_no_attributes(page: tuple[Elements, Elements]) -> None:
    assert shape(page[0]) == shape(page[1])
    assert not [name for _, attributes in page[0].found for name in attributes if name.startswith("on")]


def test_the_policy_allows_the_page_its_own_script_alone(page: tuple[Elements, Elements]) -> None:
    (policy,) = [dict(a)["content"] for tag, a in page[0].found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page[0].scripts[-1].encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'" and "use strict" in page[0].scripts[-1]
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    tag, attributes = page[0].found[4]
    assert (tag, attributes.get("http-equiv")) == ("meta", "Content-Security-Policy"), "before anything else"


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds."""
    monkeypatch.setattr(charts, "page_charts", lambda report: {"front": {}, "frames": {}, "steps": None})


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(
    "changes",
    [{"provenance": {"unavailable_metrics": [1]}}, {"provenance": {"prompts": 5}}],
    ids=["a list for an object", "a number for a list"],
)
def test_a_report_that_cannot_be_shown_is_our_error(write: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    videos = tmp_path if "prompts" in changes["provenance"] else None
    report = QualityReport.load(write(report_of("fine", **changes)), videos=videos)
    with pytest.raises(ConfigError, match="cannot be shown"):
        report.to_html(tmp_path / "page.html")


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/sh", b""], ids=["another file", "empty"])
def test_a_link_among_the_videos_does_not_get_into_a_page(write: Any, tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    (tmp_path / "prompt000-seed7-00.mp4").symlink_to(secret)
    report = QualityReport.load(write(report_of("fine")), videos=tmp_path)
    with pytest.raises(ConfigError, match=r"prompt000-seed7-00.mp4 is no MP4 video"):
        report.to_html(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_commands_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool, text: str
) -> None:
    terminal = {"TTY_COMPATIBLE": str(int(is_terminal)), "NO_COLOR": "1", "COLUMNS": "200"}
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    table = Table(["name", text], [[text, "1"], ["other", text]])
    show(Result({"name": text}, [table, text, Table(["a"], [["b"]], text=text)]), as_json=False)
    show(Result({"name": text}, []), as_json=True)
    error_line(f"ConfigError: {text}")
    out, err = capsys.readouterr()
    own = re.sub(r"\x1b\[[\d;]*m", "", out) if "\x1b" not in text else out  # bold heads are rich's own
    assert not COMMANDS.search(re.sub(r"\x1b\[[01]?m", "", own)) and not COMMANDS.search(err)
    assert err.count("\n") == 1
    if "smile" in text:
        assert "[bold red]:smile:[/]" in out, "neither markup nor names of pictures"


def test_a_report_with_breaks_in_its_labels_stays_one_table(write: Any) -> None:
    text = QualityReport.load(write(report_of(ALL_TEXTS))).to_markdown()
    assert text.count("\n") == 3
    assert str(Table.from_markdown(text)).count("\n") == 2


def test_what_is_hidden_is_shown() -> None:
    assert visible("a\x1b[2J\r\x07\u202e\ud800é\t\n") == "a\\x1b[2J\\r\\x07\\u202e\\ud800é\t\n"


def test_what_one_waits_for_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    class Recorder(Console):
        def status(self, text: Any, **_: Any) -> Any:
            waited.append(text)
            return super().status(text)

    monkeypatch.setattr(output, "Console", Recorder)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with status("Loading [red]\x1b[2J me"):
        pass
    assert waited[0].plain == "Loading [red]\\x1b[2J me"
