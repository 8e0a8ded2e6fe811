"""The entries of a report's file, each value checked."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")


def parse_records(
    kind: type[_Record], entries: object, origin: str, *, is_old: bool, has_errors: bool
) -> tuple[_Record, ...]:
    """The entries of one list of the file as dataclasses, or a `ConfigError` that names the bad one.

    Args:
        kind: the dataclass.
        entries: the list.
        origin: named in the error.
        is_old: fields with a default are not in the file.
        has_errors: metrics have a standard error each.
    """
    if not isinstance(entries, list):
        raise ConfigError(f"{origin} must be a list. Write the file with QualityReport.to_json.")
    names = {item.name for item in fields(kind) if not is_old or _is_required(item)}
    records = []
    for index, entry in enumerate(entries):
        where = f"{origin}[{index}]"
        if not isinstance(entry, dict) or set(entry) != names:
            raise ConfigError(f"{where} must be an object with exactly the keys {sorted(names)}, got {entry!r:.80}.")
        try:
            records.append(kind(**{key: _typed(key, value, has_errors) for key, value in entry.items()}))
        except ValueError as error:
            raise ConfigError(
                f"{where} is malformed: {error!s:.200}. Write the file with QualityReport.to_json."
            ) from None
    return tuple(records)


def _is_required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _typed(key: str, value: Any, has_errors: bool) -> Any:
    """One JSON value of a record as its Python type, or ValueError."""
    if key in ("name", "prompt"):
        return _text(key, value)
    if key in ("density", "peak_memory_bytes") and value is None:
        return None
    if key in ("density", "speedup"):
        return _float(key, value)
    if key == "metrics":
        read = _pair if has_errors else _float
        return {name: read(name, item) for name, item in _object(key, value).items()}
    if key == "frames":
        return {name: _floats(name, item) for name, item in _object(key, value).items()}
    if key == "steps":
        return {
            denoiser: {branch: _text(branch, letters) for branch, letters in _object(denoiser, branches).items()}
            for denoiser, branches in _object(key, value).items()
        }
    if type(value) is not int:
        raise ValueError(f"{key} must be a whole number, got {value!r:.40}")
    return value


def _object(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object, got {value!r:.40}")
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text, got {value!r:.40}")
    return value


def _floats(key: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list of numbers, got {value!r:.40}")
    return tuple(_float(key, item) for item in value)


def _pair(name: str, item: Any) -> tuple[float, float]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError(f"{name} must be [mean, standard error], got {item!r:.40}")
    return _float(name, item[0]), _float(name, item[1])


def _float(key: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{key} must be a number or null, got {value!r:.40}")
    return float(value)
