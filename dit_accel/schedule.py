"""`CacheSchedule`: what each step of a run does, with where it comes from. JSON, in files, the package and the Hub."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .actions import (
    HOLD,
    PartialSteps,
    SparseSteps,
    check_actions,
    checked_forecasts,
    checked_num_steps,
    checked_steps,
    parsed_forecasts,
    parsed_part,
)
from .actions import MAX_STEPS as MAX_STEPS
from .documents import parse_document, quoted, read_json_file, save_file
from .errors import ScheduleError, did_you_mean

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

SCHEMA = "dit_accel.cache_schedule"
VERSION = 1  # of a schedule that only has compute steps, which older versions can run
VERSION_WITH_ACTIONS = 2
MAX_FILE_BYTES = 1 << 20
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
        object.__setattr__(self, "compute_steps", checked_steps(self.num_steps, self.compute_steps))
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
        """A schedule as it is, from a file, from the Hub, or by the name of a shipped one.

        A string that ends in ``.json``, and every ``Path``, is a file; any other string with a ``:`` is one on the Hub
        (``"org/repo:name"``, ``"org/repo@revision:name"``); the rest can only be a shipped name
        (``"digits-wan/lemica-fast"``).

        Raises:
            ScheduleError: no shipped schedule has this name, or what is there cannot be read as a schedule.
            HubError: it cannot be had from the Hub.
        """
        if isinstance(source, CacheSchedule):
            return source
        if not isinstance(source, (str, Path)):
            raise ScheduleError(f"A schedule is a name, a path or a CacheSchedule, got {type(source).__name__}.")
        if isinstance(source, Path) or source.endswith(".json"):
            return cls.load(source)
        if ":" not in source:
            return cls._shipped(source)
        from .hub import HubFile

        file = HubFile.parse(source)
        return cls.from_hub(file.repo_id, file.name, revision=file.revision)

    @classmethod
    def uniform(cls, num_steps: int, budget: int) -> CacheSchedule:
        """``budget`` compute steps spread evenly from the first to the last step: the baseline every plan must beat.

        Raises:
            ScheduleError: ``budget`` is not from 2 to ``num_steps``, or ``num_steps`` is out of range.
        """
        checked_num_steps(num_steps)
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
                f"{did_you_mean(name, known)} A file is a path that ends in .json, one on the Hub 'org/repo:name'."
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

    def push_to_hub(
        self,
        repo_id: str,
        name: str,
        *,
        token: str | bool | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        endpoint: str | None = None,
    ) -> CommitInfo:
        """Commit the schedule to a model repository of the Hub, as ``dit_accel/NAME.json``.

        Args:
            repo_id: ``"organisation/repository"``; it is made if it is missing.
            name: letters, digits, ``-`` and ``_``, at most 64; one that exists gets a new version.
            token: of the Hub; None: the one that you logged in with.
            private: whether a repository that is made now is private; None: the default of its owner.
            revision: branch to commit to, which must exist; None: ``main``.
            commit_message: None: one with the name.
            create_pr: open a pull request in place of a commit.
            endpoint: address of the Hub; None: huggingface.co, or ``$HF_ENDPOINT``.

        Returns:
            The commit: a string that is its URL, with ``.oid`` and, for a pull request, ``.pr_url``.

        Raises:
            HubError: a name of the wrong form, no permission, no such branch, or the Hub cannot be reached.
        """
        from .hub import HubFile, upload

        return upload(
            HubFile("schedule", repo_id, name, revision),
            self.to_json(),
            MAX_FILE_BYTES,
            token=token,
            private=private,
            commit_message=commit_message,
            create_pr=create_pr,
            endpoint=endpoint,
        )

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        name: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> CacheSchedule:
        """The schedule ``dit_accel/NAME.json`` of a model repository of the Hub, or of huggingface_hub's cache.

        Its content is compared with the hash that the Hub gave, also when it comes from the cache. (Where the system
        has no symbolic links, the cache keeps no hash; offline, such a schedule is only validated.)

        Args:
            repo_id, name, token, endpoint: see `push_to_hub`.
            revision: branch, tag or commit; only a commit always means the same. None: ``main``.
            cache_dir: None: huggingface_hub's own.
            force_download: load it again although it is in the cache.
            local_files_only: take it from the cache without asking the Hub.

        Raises:
            HubError: a name of the wrong form; no such repository, revision or schedule; over 1 MiB; damaged; or
                neither in the cache nor to be had.
            ScheduleError: it is no valid schedule.
        """
        from .hub import HubFile, download

        file = HubFile("schedule", repo_id, name, revision)
        path = download(
            file,
            MAX_FILE_BYTES,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            endpoint=endpoint,
        )
        return cls.from_json(read_json_file(path, MAX_FILE_BYTES, ScheduleError, "schedule"), origin=str(file))


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
