"""`CacheSchedule`: the compute steps of one budget, with where they come from. Schema v1, JSON."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import DitAccelError, ScheduleError, did_you_mean

SCHEMA = "dit_accel.cache_schedule"
VERSION = 1
MAX_FILE_BYTES = 1 << 20
MAX_STEPS = 10_000
_KEYS = ("num_steps", "compute_steps", "provenance")


@dataclass(frozen=True)
class CacheSchedule:
    """Which of ``num_steps`` denoising steps are computed in full; every other step reuses the last computed one.

    Args:
        num_steps: model steps of a trajectory, 2 to 10,000.
        compute_steps: strictly increasing step indices, starting at 0; more of them: slower, closer to the full run.
        provenance: where the schedule comes from; plain JSON values. Keys written by the planner: ``name``, ``model``
            (id, weights hash), ``scheduler`` (class, shift), ``inputs`` (resolution, frames, guidance), ``prompts``,
            ``seeds``, ``budget``, ``objective``, ``versions``.

    Raises:
        ScheduleError: the steps are not a valid schedule.

    Paper: LeMiCa's path through the DAG, its nodes are ``compute_steps``.
    """

    num_steps: int
    compute_steps: tuple[int, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_steps", _checked_steps(self.num_steps, self.compute_steps))
        if not isinstance(self.provenance, Mapping):
            raise ScheduleError(f"provenance must be a JSON object, got {type(self.provenance).__name__}.")

    @property
    def budget(self) -> int:
        """Number of full steps."""
        return len(self.compute_steps)

    @property
    def name(self) -> str:
        """The provenance's name, or a description of the steps."""
        return str(self.provenance.get("name", f"{self.budget} of {self.num_steps} steps"))

    @classmethod
    def resolve(cls, source: str | Path | CacheSchedule) -> CacheSchedule:
        """A schedule as it is, from a file, or by the name of a shipped one (``"digits-wan/lemica-fast"``).

        A string that ends in ``.json``, and every ``Path``, is a file; any other string can only be a shipped name.

        Raises:
            ScheduleError: no shipped schedule has this name, or the file cannot be read as a schedule.
        """
        if isinstance(source, CacheSchedule):
            return source
        if not isinstance(source, (str, Path)):
            raise ScheduleError(f"A schedule is a name, a path or a CacheSchedule, got {type(source).__name__}.")
        if isinstance(source, str) and not source.endswith(".json"):
            return cls._shipped(source)
        return cls.load(source)

    @classmethod
    def uniform(cls, num_steps: int, budget: int) -> CacheSchedule:
        """``budget`` compute steps spread evenly from the first to the last step: the baseline every plan must beat.

        Raises:
            ScheduleError: ``budget`` is not from 2 to ``num_steps``, or ``num_steps`` is out of range.
        """
        _check_num_steps(num_steps)
        if type(budget) is not int or not 2 <= budget <= num_steps:
            raise ScheduleError(f"budget must be an integer from 2 to num_steps={num_steps}, got {quoted(budget)}.")
        steps = tuple(round(k * (num_steps - 1) / (budget - 1)) for k in range(budget))
        return cls(num_steps, steps, {"name": f"uniform-{budget}", "objective": "uniform", "budget": budget})

    @classmethod
    def _shipped(cls, name: str) -> CacheSchedule:
        known = shipped_schedules()
        if name not in known:
            raise ScheduleError(
                f"No shipped schedule is called {quoted(name)}. Shipped: {', '.join(known) or 'none'}."
                f"{did_you_mean(name, known)} For a file of your own give a path that ends in .json."
            )
        model, preset = name.split("/")
        text = (
            files("dit_accel.offline_profiles").joinpath(model).joinpath(f"{preset}.json").read_text(encoding="utf-8")
        )
        return cls.from_json(text, origin=name)

    @classmethod
    def load(cls, path: str | Path) -> CacheSchedule:
        """Read a schedule file.

        Raises:
            ScheduleError: missing, over 1 MiB, not JSON, of another kind or version, or with invalid steps.
        """
        path = Path(path)
        return cls.from_json(read_json_file(path, MAX_FILE_BYTES, ScheduleError, "schedule"), origin=str(path))

    @classmethod
    def from_json(cls, text: str, *, origin: str = "text") -> CacheSchedule:
        """Parse the JSON form; ``origin`` is named in errors."""
        document = parse_document(text, SCHEMA, VERSION, _KEYS, ScheduleError, origin)
        try:
            return cls(document["num_steps"], document["compute_steps"], document["provenance"])
        except ScheduleError as error:
            raise ScheduleError(f"{origin}: {error}") from None

    def to_json(self) -> str:
        """The JSON form, schema v1; ``save`` writes exactly this."""
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "num_steps": self.num_steps,
            "compute_steps": list(self.compute_steps),
            "provenance": dict(self.provenance),
        }
        try:
            return json.dumps(document, indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise ScheduleError(f"The provenance holds a value that JSON cannot: {error}.") from None

    def save(self, path: str | Path) -> None:
        """Write the schedule atomically: after a crash the file is the old one or the new one, never a part.

        Raises:
            ScheduleError: the file cannot be written, or the provenance holds what JSON cannot.
        """
        save_file(Path(path), self.to_json(), ScheduleError, "schedule")


def shipped_schedules() -> list[str]:
    """Names of the schedules in the package, e.g. ``"digits-wan/lemica-fast"``."""
    root = files("dit_accel.offline_profiles")
    return sorted(
        f"{model.name}/{file.name.removesuffix('.json')}"
        for model in root.iterdir()
        if model.is_dir() and model.name != "jobs"
        for file in model.iterdir()
        if re.fullmatch(r"[a-z0-9-]+\.json", file.name)
    )


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
    text: str, schema: str, version: int, keys: tuple[str, ...], error: type[DitAccelError], origin: str
) -> dict[str, Any]:
    """JSON text -> the document, with schema, version and exactly the ``keys`` checked."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        raise error(f"{origin} is not valid JSON: {problem}.") from None
    if not isinstance(document, dict) or document.get("schema") != schema:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise error(f"{origin} is not a {schema} file (its schema is {quoted(found)}).")
    given = document.get("version")
    if type(given) is not int or given != version:  # True and 1.0 equal 1
        raise error(f"{origin} has schema version {quoted(given)}; this dit_accel reads {version}. Update dit_accel.")
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


def _checked_steps(num_steps: object, compute_steps: object) -> tuple[int, ...]:
    """The steps as a tuple, or a `ScheduleError` that quotes what is wrong."""
    num_steps = _check_num_steps(num_steps)
    if not isinstance(compute_steps, (list, tuple)) or any(type(step) is not int for step in compute_steps):
        raise ScheduleError(f"compute_steps must be a list of integers, got {quoted(compute_steps)}.")
    steps = tuple(compute_steps)
    if not steps or steps[0] != 0:
        raise ScheduleError(f"compute_steps must start with 0 (nothing can be reused before it), got {quoted(steps)}.")
    for earlier, later in pairwise(steps):
        if later <= earlier:
            raise ScheduleError(
                f"compute_steps must increase strictly, got {quoted(later)} after {quoted(earlier)}: {quoted(steps)}."
            )
    if steps[-1] >= num_steps:
        raise ScheduleError(f"compute_steps must stay below num_steps={num_steps}, got {quoted(steps[-1])}.")
    return steps


def _check_num_steps(num_steps: object) -> int:
    if type(num_steps) is not int or not 2 <= num_steps <= MAX_STEPS:
        raise ScheduleError(f"num_steps must be an integer from 2 to {MAX_STEPS}, got {quoted(num_steps)}.")
    return num_steps
