"""The work directory of a profiling job: durable, resumable, safe against a kill at any moment.

    job.json                          what is measured; a different job in the same directory is refused
    lock                              held while a process works here; shards share it
    shard-003-of-008.lock             held while this shard works here; says later that it did
    trajectory-000.safetensors        one full run a batch
    step-times.json                   milliseconds of a step, if the job measures them
    rollouts/000-003-007.json         one measured edge: batch, i, j -> errors of its videos
    rollouts/000-003-007-fitted.json  the same with another forecast than to hold
    trials/0123456789abcdef.json      one whole schedule that `polish` has run

Every file appears complete, by rename, or not at all; what is there is never measured again.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import (
    is_number,
    parse_document,
    parse_json,
    quoted,
    read_json_file,
    replacing,
    save_file,
    write_atomically,
)
from ..errors import JobError
from .rollout import Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCHEMA, _VERSION = "dit_accel.rollout", 1
_TIMES_SCHEMA = "dit_accel.step_times"
_MAX_BYTES = 1 << 20
_ROLLOUT = re.compile(r"(\d{3,})-(\d{3,})-(\d{3,})(?:-([a-z0-9]+))?\.json")
Task = tuple[int, Rollout]


class WorkDir:
    """Access to one work directory; ``description`` is the job's identity as plain JSON values.

    Raises:
        JobError: the directory cannot be written, or holds another job.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path = path
        self.description: dict[str, Any] = json.loads(json.dumps(description, sort_keys=True))  # as job.json has it
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        try:
            (path / "rollouts").mkdir(parents=True, exist_ok=True)
            if not (path / "job.json").exists():
                write_atomically(path / "job.json", text)
        except OSError as error:
            raise JobError(f"The work directory {path} cannot be written: {error}. Give another workdir.") from None
        found = read_description(path)
        if found != self.description:
            raise JobError(
                f"{path} holds another job; these differ: {different_keys(found, self.description)}. Use a fresh "
                "workdir, or restore the job."
            )

    @contextmanager
    def locked(self, name: str = "lock", *, shared: bool = False, wait: bool = False) -> Iterator[None]:
        """Keep other processes out.

        Args:
            name: of the lock; the default one is that of the whole directory.
            shared: let others have it that share it, too.
            wait: until it is free.

        Raises:
            JobError: another process works here, or the directory has no locks.
        """
        lock = self.path / name
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        with ExitStack() as stack:
            try:
                fcntl.flock(stack.enter_context(open(lock, "a", encoding="utf-8")), kind)
            except BlockingIOError:
                raise JobError(
                    f"Another process is working in {self.path}. Wait for it, or use another workdir."
                ) from None
            except OSError as error:
                raise JobError(f"{lock} cannot be locked: {error}. Use a workdir whose disk has locks.") from None
            yield

    def trajectory(self, batch: int) -> Path:
        """Where the full run of ``batch`` is, or goes."""
        return self.path / f"trajectory-{batch:03d}.safetensors"

    def write_trajectory(self, batch: int, data: NDArray[np.uint8]) -> None:
        """Make a full run durable that was recorded elsewhere, given the bytes of its file.

        Raises:
            JobError: the file cannot be written.
        """
        path = self.trajectory(batch)
        try:
            with replacing(path, path.with_suffix(".tmp")) as temporary:
                temporary.write_bytes(data.data)
        except OSError as problem:
            raise JobError(f"{path} cannot be written: {problem}. Free some space, or use another workdir.") from None

    def write(self, task: Task, errors: list[float]) -> None:
        """Make the result of one rollout durable.

        Raises:
            JobError: the file cannot be written.
        """
        batch, rollout = task
        action = "" if rollout.action == "hold" else f"-{rollout.action}"
        path = self.path / "rollouts" / f"{batch:03d}-{rollout.start:03d}-{rollout.stop:03d}{action}.json"
        _write_errors(path, errors)

    def step_times(self) -> dict[str, float] | None:
        """Milliseconds of a step by what it does, if they were measured.

        Raises:
            JobError: the file was damaged from outside.
        """
        path = self.path / "step-times.json"
        if not path.exists():
            return None
        text = read_json_file(path, _MAX_BYTES, JobError, "step times")
        times = parse_document(text, _TIMES_SCHEMA, {_VERSION: ("milliseconds",)}, JobError, str(path))["milliseconds"]
        if not isinstance(times, dict) or not all(is_number(value) and value > 0 for value in times.values()):
            raise JobError(f"{path} is damaged: {quoted(times)}. Delete it, and run the job again.")
        return times

    def write_step_times(self, milliseconds: Mapping[str, float]) -> None:
        """Make the measured milliseconds durable.

        Raises:
            JobError: the file cannot be written.
        """
        document = {"schema": _TIMES_SCHEMA, "version": _VERSION, "milliseconds": dict(milliseconds)}
        save_file(self.path / "step-times.json", json.dumps(document) + "\n", JobError, "step times")

    def trial(self, key: str, num_videos: int) -> list[float] | None:
        """The errors of the whole schedule ``key``, if it was run.

        Raises:
            JobError: the file was damaged from outside.
        """
        path = self.path / "trials" / f"{key}.json"
        return _read_errors(path, num_videos) if path.exists() else None

    def write_trial(self, key: str, errors: list[float]) -> None:
        """Make the result of one whole schedule durable.

        Raises:
            JobError: the file cannot be written.
        """
        folder = self.path / "trials"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as problem:
            raise JobError(f"{folder} cannot be made: {problem}. Give another workdir.") from None
        _write_errors(folder / f"{key}.json", errors)

    def results(self, batch_sizes: Sequence[int]) -> dict[Task, list[float]]:
        """Every rollout that is done, given the number of videos of each batch.

        Raises:
            JobError: a result file was damaged from outside.
        """
        found: dict[Task, list[float]] = {}
        for path in sorted((self.path / "rollouts").iterdir()):
            match = _ROLLOUT.fullmatch(path.name)
            if match is None:
                continue  # a temporary file that a kill left behind
            batch, start, stop = (int(group) for group in match.groups()[:3])
            wanted = batch_sizes[batch] if batch < len(batch_sizes) else 0
            errors = _read_errors(path, wanted)
            found[batch, Rollout(start, stop, match[4] or "hold")] = errors
        return found


def _write_errors(path: Path, errors: list[float]) -> None:
    document = {"schema": _SCHEMA, "version": _VERSION, "errors": errors}
    save_file(path, json.dumps(document, allow_nan=False) + "\n", JobError, "rollout")


def _read_errors(path: Path, wanted: int) -> list[float]:
    """The errors of ``wanted`` videos, or a `JobError` that says that the file is damaged."""
    text = read_json_file(path, _MAX_BYTES, JobError, "rollout")
    errors = parse_document(text, _SCHEMA, {_VERSION: ("errors",)}, JobError, str(path))["errors"]
    if not isinstance(errors, list) or not all(is_number(e) and e >= 0 for e in errors) or len(errors) != wanted:
        raise JobError(
            f"{path} is damaged: errors must be {wanted} numbers of at least 0, got {quoted(errors)}. Delete it, and "
            "run the job again."
        )
    return errors


def read_description(path: Path) -> dict[str, Any]:
    """The description of the job of a work directory.

    Raises:
        JobError: there is none, or it is damaged.
    """
    path = path / "job.json"
    document = parse_json(read_json_file(path, _MAX_BYTES, JobError, "job"), JobError, str(path))
    if not isinstance(document, dict):
        raise JobError(f"{path} is damaged: it holds {quoted(document)}, not a job. Use a fresh workdir.")
    return document


def different_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two descriptions do not have in common."""
    return f"{', '.join(sorted(key for key in {*one, *other} if one.get(key) != other.get(key))):.300}"
