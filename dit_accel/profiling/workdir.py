"""The work directory of a profiling job: durable, resumable, safe against a kill at any moment.

    job.json                          what is measured; a different job in the same directory is refused
    lock                              held while a process works here
    trajectory-000.safetensors        one full run a batch
    rollouts/000-003-007.json         one measured edge: batch, i, j -> errors of its videos

Every file appears complete, by rename, or not at all; what is there is never measured again.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import JobError
from ..schedule import parse_document, read_json_file, write_atomically

_SCHEMA, _VERSION = "dit_accel.rollout", 1
_MAX_BYTES = 1 << 20
_ROLLOUT = re.compile(r"(\d{3,})-(\d{3,})-(\d{3,})\.json")
Task = tuple[int, int, int]


class WorkDir:
    """Access to one work directory; ``description`` is the job's identity as plain JSON values.

    Raises:
        JobError: the directory cannot be written, or holds another job.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path = path
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        try:
            (path / "rollouts").mkdir(parents=True, exist_ok=True)
            if not (path / "job.json").exists():
                write_atomically(path / "job.json", text)
        except OSError as error:
            raise JobError(f"The work directory {path} cannot be written: {error}. Give another one with workdir=.") from None
        found = json.loads(read_json_file(path / "job.json", _MAX_BYTES, JobError, "job"))
        wanted = json.loads(text)
        if found != wanted:
            changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise JobError(
                f"{path} holds another job; these differ: {', '.join(changed)}. Use a fresh workdir, or restore the job."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            JobError: another process works here.
        """
        with open(self.path / "lock", "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise JobError(f"Another process is working in {self.path}. Wait for it, or use another workdir.") from None
            yield

    def trajectory(self, batch: int) -> Path:
        """Where the full run of ``batch`` is, or goes."""
        return self.path / f"trajectory-{batch:03d}.safetensors"

    def write(self, task: Task, errors: list[float]) -> None:
        """Make the result of one rollout durable."""
        document = {"schema": _SCHEMA, "version": _VERSION, "errors": errors}
        batch, start, stop = task
        write_atomically(self.path / "rollouts" / f"{batch:03d}-{start:03d}-{stop:03d}.json", json.dumps(document) + "\n")

    def results(self) -> dict[Task, list[float]]:
        """Every rollout that is done.

        Raises:
            JobError: a result file was damaged from outside.
        """
        found: dict[Task, list[float]] = {}
        for path in sorted((self.path / "rollouts").iterdir()):
            match = _ROLLOUT.fullmatch(path.name)
            if match is None:
                continue  # a temporary file that a kill left behind
            text = read_json_file(path, _MAX_BYTES, JobError, "rollout")
            document = parse_document(text, _SCHEMA, _VERSION, ("errors",), JobError, str(path))
            batch, start, stop = (int(group) for group in match.groups())
            found[batch, start, stop] = document["errors"]
        return found
