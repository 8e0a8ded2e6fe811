"""`make audit`: known vulnerabilities of what is installed, and licences of what users install with us.

Exit code 0: nothing is wrong, or the vulnerability service cannot be asked, which is said loudly. 1: something is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
OURS = "dit-accel"
DEVELOPMENT = {"dev", "docs", "notebooks", "rivals"}  # extras that users do not install
TIMEOUT_SECONDS = 60
# The packages of NVIDIA's CUDA come with torch; their licence is NVIDIA's own, and torch's users have agreed to it.
WITH_TORCH = ("nvidia-", "cuda-")


def say(text: str) -> None:
    """One line, or a few, where it stands out."""
    sys.stderr.write(f"{text}\n")


def audited(command: Iterable[str]) -> tuple[list[dict[str, Any]], str]:
    """pip-audit's entries, and why there are none."""
    try:
        done = subprocess.run([*command], capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return [], f"no answer in {TIMEOUT_SECONDS} s"
    except (OSError, ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() if "done" in locals() else []
        return [], lines[-1][:200] if lines else "pip-audit did not run"
    return found, ""


def judged(
    entries: Iterable[Mapping[str, Any]], ignored: Iterable[Mapping[str, Any]], today: date
) -> tuple[list[str], list[str]]:
    """What is wrong, and the packages that nobody was asked about. A package that is not on PyPI is such a one."""
    passed = {(canonicalize_name(each["package"]), each["id"]) for each in ignored if each["until"] >= today}
    wrong = [
        f"{each['package']}: the exception for {each['id']} ended on {each['until']}: {each['reason']}"
        for each in ignored
        if each["until"] < today
    ]
    unasked = []
    for entry in entries:
        name = canonicalize_name(entry["name"])
        if "skip_reason" in entry:
            unasked.append(name)
        for advisory in entry.get("vulns", ()):
            if not any((name, known) in passed for known in (advisory["id"], *advisory.get("aliases", ()))):
                fixed = ", ".join(advisory.get("fix_versions", ())) or "no release yet"
                wrong.append(f"{name} {entry['version']}: {advisory['id']}, mended in {fixed}")
    return wrong, [name for name in unasked if name != OURS]


def check_advisories() -> list[str]:
    """Everything that is wrong; what could not be asked is said."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    entries, problem = audited(command)
    ignored = tomllib.loads((HERE / "advisories.toml").read_text(encoding="utf-8"))["ignored"]
    wrong, unasked = judged(entries, ignored, datetime.now(UTC).date())
    asked = len(entries) - len(unasked)
    if asked <= len(entries) / 2:
        why = problem or f"it knew only {asked} of {len(entries)} packages"
        say(
            f"\n*** NOT AUDITED: the vulnerability service could not be asked ({why}).\n"
            "*** This says nothing about vulnerabilities. Run `make audit` with a connection to PyPI.\n"
        )
    else:
        say(f"{asked} packages audited, {len(wrong)} problems. Not on PyPI: {', '.join(unasked) or 'none'}.")
    return wrong


def runtime(name: str = OURS) -> dict[str, Distribution]:
    """What is installed out of the requirements of a package, with theirs, and with the extras that users install."""
    found: dict[str, Distribution] = {}
    root = distribution(name)
    extras = set(root.metadata.get_all("Provides-Extra") or ()) - DEVELOPMENT
    todo: list[tuple[Distribution, set[str]]] = [(root, {"", *extras})]
    seen = set()
    while todo:
        package, wanted = todo.pop()
        for requirement in map(Requirement, package.requires or ()):
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in wanted):
                continue
            key = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if key in seen:
                continue
            seen.add(key)
            try:
                needed = distribution(requirement.name)
            except PackageNotFoundError:  # of an extra that is not installed here
                continue
            found[key[0]] = needed
            todo.append((needed, {"", *requirement.extras}))
    return found


def licences_of(package: Distribution) -> Iterator[str]:
    """What its metadata says: the expression, or else the classifiers, or else the first line of the free text."""
    data = package.metadata
    if data.get("License-Expression"):
        yield from _parts(data["License-Expression"])
        return
    kinds = [text for text in data.get_all("Classifier") or () if text.startswith("License ::")]
    named = [text.rpartition(" :: ")[2] for text in kinds if not text.endswith("OSI Approved")]
    text = (data.get("License") or "").strip()
    yield from named or _parts(text.splitlines()[0] if text else "none given")


def _parts(expression: str) -> list[str]:
    return [part.strip() for part in re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", expression) if part.strip()]


def check_licences(packages: Mapping[str, Distribution]) -> list[str]:
    """The packages whose licence is neither allowed nor explained."""
    rules = tomllib.loads((HERE / "licences.toml").read_text(encoding="utf-8"))
    allowed, explained = set(rules["allowed"]), rules["packages"]
    wrong = []
    for name, package in sorted(packages.items()):
        unknown = sorted({text for text in licences_of(package) if text not in allowed})
        if unknown and name not in explained and not name.startswith(WITH_TORCH):
            wrong.append(f"{name} {package.version}: {', '.join(unknown)} is not in tests/security/licences.toml")
    return wrong


def main() -> int:
    """Check both; one line for each problem."""
    packages = runtime()
    wrong = check_licences(packages)
    say(f"{len(packages)} packages that users install: licences of {len(wrong)} are not allowed.")
    wrong += check_advisories()
    for line in wrong:
        say(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
