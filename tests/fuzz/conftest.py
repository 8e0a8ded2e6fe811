"""What all of the fuzzing asks: an input is taken as valid, or refused by a short error of ours that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import currently_in_test_context, event

from dit_accel.errors import DitAccelError

MAX_MESSAGE = 1000
T = TypeVar("T")


def outcome(make: Callable[[], T], *, kind: type[DitAccelError] = DitAccelError, says: str = "") -> T | None:
    """What ``make`` returns, or None if it raises an error of ``kind`` whose message is bounded and has ``says``."""
    try:
        found = make()
    except kind as error:
        message = str(error)
        assert 0 < len(message) <= MAX_MESSAGE, f"{len(message)} characters: {message[:300]}"
        assert says in message, message
        _count("refused")
        return None
    _count("accepted")
    return found


def _count(what: str) -> None:
    """For ``--hypothesis-show-statistics``."""
    if currently_in_test_context():
        event(what)
