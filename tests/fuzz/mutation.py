"""Valid documents, damaged: a few random edits of the tree of values, then of the text, then of its bytes.

Hypothesis draws the edits as small integers, so that a failure shrinks to as few edits as it takes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Edit = tuple[int, int, int]  # what to do, where, and with which of the values below


class Raw(str):
    """Text that is written as it is, whether or not it is JSON."""


class Object(list[list[Any]]):
    """A JSON object as [key, value] pairs, so that a key may come twice."""


def nested(depth: int, opening: str = "[", closing: str = "]") -> Raw:
    return Raw(opening * depth + closing * depth)


KEYS = (
    "",
    "x",
    "steps",
    "config",
    "schema",
    "version",
    "0",
    "1",
    "01",
    "-1",
    "9" * 30,
    "\ud800",
    "\0",
    "k" * 5000,
    "é",
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        3,
        -1,
        5,
        9,
        10,
        11,
        10_001,
        2**31,
        2**63,
        2**64,
        -(2**63),
        10**30,
        10**400,
        -(10**400),
    ),
    *(0.0, -0.0, 0.5, 1.0, 2.5, -1.5, 1e-320, 1.7e308, 1e15),
    *("", "0", "1", "x", "hold", "fitted", "auto", "\ud800", "\0", "s" * 3000, "a\nb", "é𝄞", "../../etc/passwd"),
    *([], [0], [1, 0], [0, 0], [[]], [None], [0] * 2000, list(range(300)), Object(), Object([["x", 1]])),
    *map(Raw, ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "9" * 5000, "0x10", "01", "+1", "1_0")),
    *map(Raw, ("", "undefined", "'x'", '"\\ud800"', '"\\u0000"', '"\\x"', "1.", ".5", "[1,]", '{"a":1,"a":2}')),
    *(nested(20), nested(400), nested(100_000), nested(200, '{"a":[', "]}")),
)
TOKENS = (
    *(
        "",
        ",",
        ":",
        "[",
        "]",
        "{",
        "}",
        '"',
        "\\",
        "\0",
        "\ufeff",
        "\ud800",
        "NaN",
        "Infinity",
        "1e999",
        "null",
        "//",
        "#",
    ),
    *("[" * 3000, "9" * 5000, " " * 5000, "\u2028", "\r\n", "'", "=", ".", "-", "\\u0000", "\\ud800"),
)


def parsed(text: str) -> Any:
    """JSON text as a tree of lists, `Object` s and values, to be edited."""
    return json.loads(text, object_pairs_hook=lambda pairs: Object(map(list, pairs)))


def rendered(value: Any) -> str:
    """The text of a tree."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Object):
        return "{" + ", ".join(f"{json.dumps(key)}: {rendered(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(rendered, value)) + "]"
    return json.dumps(value)


def slots(value: Any) -> Iterator[tuple[list[Any], int]]:
    """Every place in the tree that holds a value: its list and index; of an `Object` the index of the pair."""
    if isinstance(value, list) and not isinstance(value, Raw):
        for index, item in enumerate(value):
            yield value, index
            yield from slots(item[1] if isinstance(value, Object) else item)


def get(owner: list[Any], index: int) -> Any:
    return owner[index][1] if isinstance(owner, Object) else owner[index]


def put(owner: list[Any], index: int, value: Any) -> None:
    if isinstance(owner, Object):
        owner[index][1] = value
    else:
        owner[index] = value


def _value(choice: int) -> Any:
    return copy.deepcopy(VALUES[choice % len(VALUES)])


def _replace(owner: list[Any], index: int, choice: int) -> None:
    put(owner, index, _value(choice))


def _delete(owner: list[Any], index: int, choice: int) -> None:
    del owner[index]


def _repeat(owner: list[Any], index: int, choice: int) -> None:
    """The entry again, once or very often; of an object a key twice, with another value."""
    if isinstance(owner, Object):
        owner.insert(index + choice % 2, [owner[index][0], _value(choice)])
    else:
        owner[index:index] = [owner[index]] * (1 if choice % 8 else 1000)


def _rename(owner: list[Any], index: int, choice: int) -> None:
    """Another key; in a list, another place."""
    if isinstance(owner, Object):
        names = (*KEYS, *(key for key, _ in owner))
        owner[index][0] = names[choice % len(names)]
    else:
        owner.insert(choice % len(owner), owner.pop(index))


def _nest(owner: list[Any], index: int, choice: int) -> None:
    value = get(owner, index)
    put(owner, index, ([value], [[value]], Object([["x", value]]), [value, value])[choice % 4])


def _retype(owner: list[Any], index: int, choice: int) -> None:
    value = get(owner, index)
    text = rendered(value)
    others: list[Any] = [text, [], Object(), None, bool(value), len(text), float(len(text))]
    if type(value) in (int, float) and abs(value) < 2**53:
        others += [float(value), str(value), int(value)]
    if isinstance(value, Object):
        others += [[item for _, item in value], [list(pair) for pair in value]]
    elif isinstance(value, list):
        others += [Object([[str(k), item] for k, item in enumerate(value)])]
    put(owner, index, others[choice % len(others)])


def _nudge(owner: list[Any], index: int, choice: int) -> None:
    """A number that is a little, or very much, another; a text with one more character."""
    value = get(owner, index)
    if type(value) in (int, float) and abs(value) < 2**53:
        steps = (value + 1, value - 1, -value, value * 2, value + 0.5, value / 2, value * 10**6, value * 2**200)
        put(owner, index, steps[choice % len(steps)])
    elif type(value) is str:
        put(owner, index, value + ("x", " ", "\0", "\ud800", "/..", ":")[choice % 6])
    else:
        _replace(owner, index, choice)


def _add(owner: list[Any], index: int, choice: int) -> None:
    value = _value(choice)
    owner.insert(index, [KEYS[choice % len(KEYS)], value] if isinstance(owner, Object) else value)


OPERATIONS: tuple[Callable[[list[Any], int, int], None], ...] = (
    *(_replace, _nudge, _delete, _repeat, _rename, _nest, _retype, _add, _nudge, _nudge, _nudge),
)
NUMBERS = st.integers(0, 2**16)
TREE_EDITS = st.lists(st.tuples(st.integers(0, len(OPERATIONS) - 1), NUMBERS, NUMBERS), min_size=1, max_size=3)
TEXT_EDITS = st.lists(st.tuples(st.integers(0, 4), NUMBERS, NUMBERS), max_size=2)


def edit_tree(tree: Any, edits: list[Edit]) -> Any:
    """The tree, changed in place; an edit that empties it is the last."""
    root: list[Any] = [tree]
    for operation, where, choice in edits:
        found = list(slots(root))
        if not found:
            break
        owner, index = found[where % len(found)]
        OPERATIONS[operation](owner, index, choice)
    return root[0] if root else None


def edit_text(text: str, edits: list[Edit]) -> str:
    """Cut, inserted into, and with a piece left out or twice."""
    for operation, where, choice in edits:
        at = where % (len(text) + 1)
        stretch = choice % 40
        text = (
            text[:at],
            text[:at] + TOKENS[choice % len(TOKENS)] + text[at:],
            text[:at] + text[at + stretch :],
            text[: at + stretch] + text[at:],
            text[:at] + TOKENS[choice % len(TOKENS)] + text[at + 1 :],
        )[operation]
    return text


def broken(text: str, tree_edits: list[Edit], text_edits: list[Edit] = ()) -> str:
    """JSON text after both kinds of edits."""
    return edit_text(rendered(edit_tree(parsed(text), tree_edits)), text_edits)


ENCODINGS = (*["utf-8"] * 8, "utf-8-sig", "utf-16", "utf-32", "latin-1")


def encoded(text: str, choice: int) -> bytes:
    """Mostly as UTF-8, which then holds what Python calls surrogates; sometimes with another byte."""
    encoding = ENCODINGS[choice % len(ENCODINGS)]
    data = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    at = choice % (len(data) + 1)
    return data[:at] + bytes([choice % 256]) + data[at + 1 :] if choice % 7 == 0 else data
