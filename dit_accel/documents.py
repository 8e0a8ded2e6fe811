"""Files on disk: read with limits, parsed strictly, checked by schema and version, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DitAccelError

MAX_DEPTH = 64  # of lists and objects in one another
MAX_INT_DIGITS = 300  # a float holds every such integer
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# Windows opens a device under these names, whatever comes after a dot.
DEVICE_NAMES = frozenset(("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))))


def is_plain_name(name: str) -> bool:
    """Whether ``name`` can name a file, without its ending, in a folder of any system: and nothing outside of it."""
    return _PLAIN_NAME.fullmatch(name) is not None and name not in DEVICE_NAMES


def read_bytes(path: Path, max_bytes: int, error: type[DitAccelError], what: str) -> bytes:
    """The content of a regular file of at most ``max_bytes``, or ``error`` saying what is wrong with it.

    What is opened is what is looked at, and no more is read than is allowed, even while somebody replaces the file.
    """
    try:
        # A pipe without a writer would keep the opening waiting.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            is_file = stat.S_ISREG(status.st_mode)
            content = file.read(max_bytes + 1) if is_file and status.st_size <= max_bytes else b""
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"There is no {what} file at {path!s:.300}.") from None
    except IsADirectoryError:
        raise error(f"{path} is a directory. Give the path of a {what} file.") from None
    except (OSError, ValueError) as problem:  # ValueError: a path that no file can have
        raise error(f"{str(path)!r:.300} cannot be read as a {what}: {_reason(problem)}.") from None
    if not is_file:  # a device or a pipe could be read for ever
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise error(f"{path} is {kind}. Give the path of a {what} file.")
    size = max(status.st_size, len(content))
    if size > max_bytes:
        raise error(f"{path} is {size:,} bytes; a {what} file has at most {max_bytes:,}. Is it the right file?")
    return content


def _reason(problem: Exception) -> str:
    """What went wrong, without the path that an OSError names again."""
    return (isinstance(problem, OSError) and problem.strerror) or str(problem)


def read_json_file(path: Path, max_bytes: int, error: type[DitAccelError], what: str) -> str:
    """The text of a file of at most ``max_bytes``, or ``error`` saying what is wrong with it."""
    content = read_bytes(path, max_bytes, error, what)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{str(path)!r} cannot be read as a {what}: {problem}.") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file that need not fit into memory, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def parse_json(text: str, error: type[DitAccelError], origin: str) -> Any:
    """What JSON text says; or ``error`` if it is none, says a thing twice, is nested too deep, or has huge numbers."""
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short_integer,
            object_pairs_hook=_without_duplicates,
        )
    except (ValueError, RecursionError) as problem:
        raise error(f"{origin} is not valid JSON: {problem}.") from None
    check_depth(value, error, origin)
    return value


def check_depth(value: Any, error: type[DitAccelError], origin: str) -> None:
    """Raise ``error`` if lists and objects are nested deeper than code that walks through them can go."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise error(f"{origin} has lists or objects nested deeper than {MAX_DEPTH}. Is it the right file?")


def parse_document(
    text: str, schema: str, keys_of: Mapping[int, tuple[str, ...]], error: type[DitAccelError], origin: str
) -> dict[str, Any]:
    """JSON text -> the document, with its schema checked, and that it has exactly the keys of its version."""
    document = parse_json(text, error, origin)
    if not isinstance(document, dict) or document.get("schema") != schema:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise error(f"{origin} is not a {schema} file (its schema is {quoted(found)}).")
    given = document.get("version")
    if type(given) is not int or given not in keys_of:  # True and 1.0 equal 1
        known = ", ".join(map(str, keys_of))
        raise error(f"{origin} has schema version {quoted(given)}; this dit_accel reads {known}. Update dit_accel.")
    keys = keys_of[given]
    missing, unknown = sorted(set(keys) - set(document)), sorted(set(document) - set(keys) - {"schema", "version"})
    if missing or unknown:
        raise error(f"{origin}: missing keys {missing}, unknown keys {quoted(unknown)}. Allowed: {sorted(keys)}.")
    return document


def quoted(value: object) -> str:
    """``repr`` for an error message: short, and safe for any value."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nesting without end
        return f"a {type(value).__name__} that is too large to show"
    except Exception:  # whatever an object's own raises
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite int or float that a float can hold; a bool is not."""
    try:
        return type(value) is not bool and isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return False


def _refuse_constant(token: str) -> float:
    raise ValueError(f"{token} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.40} is too large for a float")
    return number


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_INT_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits, at most {MAX_INT_DIGITS} are allowed")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # which of them counts, readers do not agree about
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {quoted(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return found


def save_file(path: Path, text: str, error: type[DitAccelError], what: str) -> None:
    """`write_atomically`, or ``error`` saying why not."""
    try:
        write_atomically(path, text)
    except (OSError, ValueError) as problem:
        raise error(
            f"The {what} cannot be written to {str(path)!r:.300}: {_reason(problem)}. Give another path."
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step, durably: temporary file, fsync, rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


@contextmanager
def replacing(path: Path, leftover: Path | None = None) -> Iterator[Path]:
    """An empty file beside ``path`` to write into, which then takes its place, durably and in one step.

    It did not exist before, and its name cannot be guessed, so nobody can have put a link there. If the block raises,
    ``path`` stays as it was. Permissions are those of any new file of the user.

    Args:
        path: what is replaced.
        leftover: the name to use; what a killed process left there is deleted. For large files in a folder of our own.
    """
    unique = path.with_name(f".{secrets.token_hex(8)}-{path.name}"[:128] + path.suffix)
    temporary = unique if leftover is None else leftover
    if leftover is not None:
        leftover.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less what the umask takes away
    try:
        yield temporary
        with temporary.open("rb") as file:  # on the disk before it has its name
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
