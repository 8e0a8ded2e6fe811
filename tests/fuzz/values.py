"""Values of any type: numbers at the ends of their ranges, of other libraries, and objects that hurt whoever looks.

Strategies draw the *text* of an expression, which `make` evaluates: a failure can then be shown whatever the value is.
"""

from __future__ import annotations

import enum
import functools
import os
import threading
from collections import UserDict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

import numpy as np
import torch
from hypothesis import strategies as st


class Hostile:
    """Raises on the way to whatever one wants of it."""

    def _raise(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("looked at")

    __repr__ = __str__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = _raise
    __len__ = __iter__ = __index__ = __int__ = __float__ = __contains__ = __getitem__ = _raise


class HostileRepr:
    """Any object, but it cannot be shown."""

    def __repr__(self) -> str:
        raise KeyError("shown")


class LongRepr:
    def __repr__(self) -> str:
        return "long" * 100_000


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    """A string of a kind of its own."""


def cycle() -> list[Any]:
    found: list[Any] = [0]
    found.append(found)
    return found


def deep(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


EXPRESSIONS = (
    *("None", "True", "False", "0", "1", "-1", "2", "5", "10**400", "-(10**400)", "2**63", "10**5000", "0.0", "-0.0"),
    *(
        "0.5",
        "1.0",
        "float('nan')",
        "float('inf')",
        "float('-inf')",
        "5e-324",
        "1.7e308",
        "1j",
        "''",
        "'auto'",
        "'hold'",
    ),
    *("'1'", "'\\ud800'", "'\\0'", "'x' * 20_000", "b'hold'", "bytearray(3)", "Text('hold')", "Number.ONE"),
    *("Path('no/such.json')", "Path('a\\0')", "[]", "[0]", "[1, 0]", "[1.0]", "()", "(0, 1)", "(-1,)", "((),)", "{}"),
    *("{1: 2}", "{'a': 1}", "set()", "{1}", "frozenset()", "deque([1])", "UserDict({'a': 1})", "range(3)"),
    *("range(10**12)", "range(10**30)", "iter([1])", "(k for k in [1])", "np.int64(3)", "np.float32(0.5)"),
    *("np.float64(0.5)", "np.float64('nan')", "np.bool_(True)", "np.str_('hold')", "np.array([1, 2])", "np.array(3)"),
    *("np.array([[0.5]])", "torch.tensor(1)", "torch.tensor([0.5, 1.0])", "torch.float32", "torch.Size([1])"),
    *(
        "Decimal('0.5')",
        "Decimal('NaN')",
        "Fraction(1, 2)",
        "object()",
        "int",
        "print",
        "os",
        "threading.Lock()",
        "...",
    ),
    *("Hostile()", "HostileRepr()", "LongRepr()", "[Hostile()]", "{'a': HostileRepr()}", "(LongRepr(), 1)", "cycle()"),
    *("deep(5_000)", "[0] * 100_000", "list(range(50))", "{str(k): k for k in range(2_000)}"),
)
_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (Hostile, HostileRepr, LongRepr, Number, Text, cycle, deep, UserDict, deque)},
    **{
        "Decimal": Decimal,
        "Fraction": Fraction,
        "Path": Path,
        "np": np,
        "torch": torch,
        "os": os,
        "threading": threading,
    },
    **{"nan": float("nan"), "inf": float("inf")},
}


def anything() -> st.SearchStrategy[str]:
    """Mostly one of the above, else a plain value."""
    plain = st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(-1, 12), max_size=4)
    return st.sampled_from(EXPRESSIONS) | st.sampled_from(EXPRESSIONS) | plain.map(repr)


def of(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Values of ``strategy``, three times as often as others."""
    valid, other = strategy.map(repr), anything()
    return st.integers(0, 3).flatmap(lambda kind: other if kind == 3 else valid)


@functools.cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "value", "eval")


def make(expression: str) -> Any:
    """The value, made anew."""
    return eval(_compiled(expression), _NAMES)


def make_all(expressions: dict[str, str]) -> dict[str, Any]:
    """The values by their names."""
    return {name: make(expression) for name, expression in expressions.items()}


def same(value: Any, depth: int = 6) -> Any:
    """What tells whether a value was changed: types, sizes, plain values, identities; `==` of nothing else."""
    if type(value) in (list, tuple) and depth:
        return type(value), [same(item, depth - 1) for item in value[:60]], len(value)
    if type(value) is dict and depth:
        return dict, [(same(k, depth - 1), same(v, depth - 1)) for k, v in list(value.items())[:60]], len(value)
    if type(value) in (bool, int, str, bytes, type(None)):
        return type(value), value
    if type(value) is float:
        return float, value.hex()
    if hasattr(type(value), "__dataclass_fields__"):
        return type(value), same(dict(vars(value)), depth - 1)
    return type(value), id(value)
