"""The command line, from the app itself."""

from __future__ import annotations

from collections.abc import Callable

REGIONS: dict[str, Callable[[], str]] = {}
