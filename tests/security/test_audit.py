"""What `make audit` takes for wrong, for clean, and for not asked."""

from __future__ import annotations

from datetime import date
from email.message import Message
from typing import Any

import pytest

from . import audit

TODAY = date(2026, 6, 1)
CLEAN = {"name": "torch", "version": "2.13.0", "vulns": []}
BAD = {
    "name": "Some_Package",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}],
}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0+cpu)"}


def ignored(until: date, known: str = "CVE-1") -> dict[str, Any]:
    return {"id": known, "package": "some-package", "reason": "its server is not used", "until": until}


def test_an_advisory_is_wrong_until_it_is_passed_over_with_a_reason() -> None:
    assert audit.judged([CLEAN, BAD], [], TODAY) == (["some-package 1.0: PYSEC-1, mended in 1.1"], [])
    for known in ("PYSEC-1", "CVE-1"):
        assert audit.judged([CLEAN, BAD], [ignored(TODAY, known)], TODAY) == ([], [])
    assert audit.judged([BAD], [ignored(TODAY, "CVE-2")], TODAY)[0]


def test_an_exception_ends() -> None:
    wrong, _ = audit.judged([BAD], [ignored(date(2026, 5, 31))], TODAY)
    assert len(wrong) == 2 and "ended on 2026-05-31: its server is not used" in wrong[0]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [([], "no answer in 60 s"), ([UNKNOWN] * 80, ""), ([UNKNOWN] * 80 + [CLEAN] * 80, "")],
    ids=["no answer", "an index without advisories", "half of it"],
)
def test_not_asked_is_not_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entries: list[Any], problem: str
) -> None:
    monkeypatch.setattr(audit, "audited", lambda command: (entries, problem))
    assert audit.check_advisories() == []
    said = capsys.readouterr().err
    assert "*** NOT AUDITED" in said and problem in said and "says nothing about vulnerabilities" in said


def test_what_was_asked_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(audit, "audited", lambda command: ([CLEAN] * 3 + [UNKNOWN, BAD], ""))
    assert len(audit.check_advisories()) == 1
    assert "4 packages audited, 1 problems. Not on PyPI: torch." in capsys.readouterr().err


@pytest.mark.parametrize("script", ["import sys; sys.exit('it broke')", "print('no JSON')", "print('[]')"])
def test_a_tool_that_breaks_is_told(script: str) -> None:
    entries, problem = audit.audited([audit.sys.executable, "-c", script])
    assert entries == [] and problem


class Package:
    version = "1.0"

    def __init__(self, **data: str) -> None:
        self.metadata = Message()
        for name, value in data.items():
            self.metadata[name.replace("_", "-")] = value


@pytest.mark.parametrize(
    ("package", "is_fine"),
    [
        (Package(License_Expression="MIT"), True),
        (Package(License_Expression="(Apache-2.0 WITH LLVM-exception) OR MIT"), True),
        (Package(License_Expression="MIT AND GPL-3.0-only"), False),
        (Package(Classifier="License :: OSI Approved :: BSD License"), True),
        (Package(Classifier="License :: OSI Approved :: GNU Affero General Public License v3"), False),
        (Package(License="MIT\nmore"), True),
        (Package(License="Research only"), False),
        (Package(), False),
    ],
)
def test_a_licence_that_is_not_allowed_is_found(package: Any, is_fine: bool) -> None:
    assert (audit.check_licences({"some": package}) == []) == is_fine


def test_what_users_install_is_allowed() -> None:
    packages = audit.runtime()
    assert {"torch", "diffusers", "numpy", "rich", "safetensors"} <= set(packages)
    assert not {"pytest", "ruff", "mkdocs", "cache-dit"} & set(packages)
    assert audit.check_licences(packages) == []
