"""JSON documents on disk: read with limits, checked by schema and version, written atomically."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import DitAccelError


def read_json_file(path: Path, max_bytes: int, error: type[DitAccelError], what: str) -> str:
    """The text of a file of at most ``max_bytes``, or ``error`` saying what is wrong with it."""
    try:
        status = path.stat()
        is_file, size = stat.S_ISREG(status.st_mode), status.st_size
        text = path.read_text(encoding="utf-8") if is_file and size <= max_bytes else ""
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"There is no {what} file at {path}.") from None
    except (OSError, ValueError) as problem:  # not UTF-8, or a path that no file can have
        raise error(f"{str(path)!r} cannot be read as a {what}: {problem}.") from None
    if not is_file:  # a device or a pipe could be read for ever
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise error(f"{path} is {kind}. Give the path of a {what} file.")
    if size > max_bytes:
        raise error(f"{path} is {size:,} bytes; a {what} file has at most {max_bytes:,}. Is it the right file?")
    return text


def parse_document(
    text: str, schema: str, keys_of: Mapping[int, tuple[str, ...]], error: type[DitAccelError], origin: str
) -> dict[str, Any]:
    """JSON text -> the document, with its schema checked, and that it has exactly the keys of its version."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        raise error(f"{origin} is not valid JSON: {problem}.") from None
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


def save_file(path: Path, text: str, error: type[DitAccelError], what: str) -> None:
    """`write_atomically`, or ``error`` saying why not."""
    try:
        write_atomically(path, text)
    except (OSError, ValueError) as problem:
        raise error(f"The {what} cannot be written to {str(path)!r}: {problem}. Give another path.") from None


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step, durably: temporary file, fsync, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
