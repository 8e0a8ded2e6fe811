"""`CacheSchedule`: the compute steps of one budget, with where they come from. Schema v1, JSON."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from .actions import HOLD, PartialSteps, SparseSteps, check_actions, checked_forecasts, parsed_forecasts, parsed_part
from .documents import parse_document, quoted, read_json_file, save_file
from .errors import ScheduleError, did_you_mean

SCHEMA = "dit_accel.cache_schedule"
VERSION = 1  # of a schedule that only has compute steps, which older versions can run
VERSION_WITH_ACTIONS = 2
MAX_FILE_BYTES = 1 << 20
MAX_STEPS = 10_000
_KEYS = ("num_steps", "compute_steps", "provenance")
_KEYS_OF = {VERSION: _KEYS, VERSION_WITH_ACTIONS: (*_KEYS, "forecasts", "partial", "sparse")}


@dataclass(frozen=True)
class CacheSchedule:
    """Which of ``num_steps`` denoising steps are computed in full; every other step reuses the last computed one.

    Args:
        num_steps: model steps of a trajectory, 2 to 10,000.
        compute_steps: strictly increasing step indices, starting at 0; more of them: slower, closer to the full run.
        provenance: where the schedule comes from; plain JSON values. Keys written by the planner: ``name``, ``model``
            (id, weights hash), ``scheduler`` (class, shift), ``inputs`` (resolution, frames, guidance), ``prompts``,
            ``seeds``, ``budget``, ``objective``, ``versions``.
        forecasts: other step -> weights of the last compute steps' residuals, newest last, whose sum it reuses. A step
            that is not given holds the newest. More weights keep as many residuals in memory.
        partial: steps at which some blocks run after all.
        sparse: compute steps with sparse attention.

    Raises:
        ScheduleError: the steps are not a valid schedule.

    Paper: LeMiCa's path through the DAG, its nodes are ``compute_steps``.
    """

    num_steps: int
    compute_steps: tuple[int, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    forecasts: Mapping[int, tuple[float, ...]] = field(default_factory=dict, repr=False)
    partial: PartialSteps | None = None
    sparse: SparseSteps | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_steps", _checked_steps(self.num_steps, self.compute_steps))
        if not isinstance(self.provenance, Mapping):
            raise ScheduleError(f"provenance must be a JSON object, got {type(self.provenance).__name__}.")
        object.__setattr__(self, "forecasts", checked_forecasts(self.num_steps, self.compute_steps, self.forecasts))
        check_actions(self.num_steps, self.compute_steps, self.partial, self.sparse)

    def weights(self, step: int) -> tuple[float, ...]:
        """What the last compute steps' residuals are multiplied by at reuse step ``step``; newest last."""
        return self.forecasts.get(step, HOLD)

    def sources(self, step: int, num_values: int) -> tuple[int, ...]:
        """The last ``num_values`` compute steps before ``step``, or as many as there are."""
        return self.compute_steps[: bisect_left(self.compute_steps, step)][-num_values:]

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
        document = parse_document(text, SCHEMA, _KEYS_OF, ScheduleError, origin)
        try:
            return cls(
                document["num_steps"],
                document["compute_steps"],
                document["provenance"],
                parsed_forecasts(document.get("forecasts", {})),
                parsed_part(PartialSteps, document.get("partial")),
                parsed_part(SparseSteps, document.get("sparse")),
            )
        except ScheduleError as error:
            raise ScheduleError(f"{origin}: {error}") from None

    def to_json(self) -> str:
        """The JSON form; ``save`` writes exactly this. Schema v1 if there is nothing but compute steps, else v2."""
        actions = {
            "forecasts": {str(step): list(weights) for step, weights in sorted(self.forecasts.items())},
            "partial": self.partial and {**vars(self.partial), "steps": list(self.partial.steps)},
            "sparse": self.sparse and {"steps": list(self.sparse.steps), "config": dict(self.sparse.config)},
        }
        has_actions = any(actions.values())
        document = {
            "schema": SCHEMA,
            "version": VERSION_WITH_ACTIONS if has_actions else VERSION,
            "num_steps": self.num_steps,
            "compute_steps": list(self.compute_steps),
            **(actions if has_actions else {}),
            "provenance": dict(self.provenance),
        }
        try:
            return json.dumps(document, indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise ScheduleError(
                f"The provenance, or the config of sparse steps, holds a value that JSON cannot: {error}."
            ) from None

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
