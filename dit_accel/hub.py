"""Schedules and quality reports on the Hugging Face Hub. All that touches huggingface_hub, which is imported on use.

They lie in the folder ``dit_accel`` of a model repository: a schedule is ``dit_accel/NAME.json``, a report
``dit_accel/NAME.report.json``. What is read was compared with the hash that the Hub gave for it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .documents import DEVICE_NAMES, quoted, read_bytes
from .errors import HubError, did_you_mean, without_secrets

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

FOLDER = "dit_accel"
_MOST_NAMES = 1000  # that are looked through for a suggestion
_SUFFIXES = {"schedule": ".json", "report": ".report.json"}
_REFERENCE = re.compile(r"(?P<repo_id>[^:@/]+/[^:@/]+)(@(?P<revision>[^:@]+))?:(?P<name>[^:@/]+)")
_REPO_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_TOKEN = re.compile(r"[!-~]+")
_GIT_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A schedule or a report in a model repository; every part is checked, so that it can be a path and a URL.

    Args:
        kind: ``"schedule"`` or ``"report"``.
        repo_id: ``"organisation/repository"``.
        name: letters, digits, ``-`` and ``_``, at most 64.
        revision: branch, tag or commit; None: the branch ``main``.

    Raises:
        HubError: a part is not of this form.
    """

    kind: Literal["schedule", "report"]
    repo_id: str
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

        if not isinstance(self.repo_id, str) or not _REPO_ID.fullmatch(self.repo_id):
            raise HubError(f"{quoted(self.repo_id)} is no repository of the Hub. Use 'organisation/repository'.")
        try:
            validate_repo_id(self.repo_id)
        except ValueError as problem:
            raise HubError(f"{quoted(self.repo_id)} is no repository of the Hub: {problem!s:.200}") from None
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name.lower() in DEVICE_NAMES:
            raise HubError(
                f"{quoted(self.name)} cannot be the name of a {self.kind} on the Hub. Use letters, digits, '-' and "
                "'_', at most 64, beginning with a letter or a digit."
            )
        revision = "main" if self.revision is None else self.revision
        is_short = isinstance(revision, str) and len(revision) <= 255
        if not is_short or not _REVISION.fullmatch(revision) or ".." in revision:
            raise HubError(f"{quoted(self.revision)} is no revision. Use a branch, a tag or a commit.")

    @classmethod
    def parse(cls, reference: str) -> HubFile:
        """The schedule that ``"org/repo:name"`` or ``"org/repo@revision:name"`` refers to.

        Raises:
            HubError: the reference is not of this form.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise HubError(
                f"{quoted(reference)} does not refer to a schedule on the Hub. Use 'org/repo:name' or "
                "'org/repo@revision:name', or give a path that ends in .json."
            )
        return cls("schedule", match["repo_id"], match["name"], match["revision"])

    @property
    def path(self) -> str:
        """Its path in the repository."""
        return f"{FOLDER}/{self.name}{_SUFFIXES[self.kind]}"

    def __str__(self) -> str:
        return f"{self.repo_id}{f'@{self.revision}' if self.revision else ''}:{self.name}"


def upload(
    file: HubFile,
    text: str,
    max_bytes: int,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    endpoint: str | None = None,
) -> CommitInfo:
    """Commit ``text`` as ``file``; the repository is made if it is missing. See `CacheSchedule.push_to_hub`.

    Raises:
        HubError: more than ``max_bytes``, no permission, no such branch, or the Hub cannot be reached.
    """
    content = text.encode()
    if len(content) > max_bytes:
        raise HubError(
            f"The {file.kind} is {len(content):,} bytes, and {max_bytes:,} is the most that can be read back."
        )
    api = _api(token, endpoint)
    with _explained(file, api, is_upload=True):
        api.create_repo(file.repo_id, private=private, exist_ok=True)
        return api.upload_file(
            path_or_fileobj=content,
            path_in_repo=file.path,
            repo_id=file.repo_id,
            revision=file.revision,
            commit_message=commit_message or f"Upload {file.kind} {file.name}",
            create_pr=create_pr,
        )


def download(
    file: HubFile,
    max_bytes: int,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The path of ``file`` in huggingface_hub's cache, its content verified. See `CacheSchedule.from_hub`.

    Raises:
        HubError: missing, over ``max_bytes`` (found before anything is loaded), not what the Hub's hash says, or
            neither in the cache nor to be had.
    """
    api = _api(token, endpoint)
    options: dict[str, Any] = {
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": local_files_only,
    }
    with _explained(file, api, is_upload=False):
        found = api.hf_hub_download(file.repo_id, file.path, revision=file.revision, dry_run=True, **options)
        if found.file_size is None or found.file_size > max_bytes:
            size = "of unknown size" if found.file_size is None else f"{found.file_size:,} bytes"
            raise HubError(f"{file} is {size}; a {file.kind} has at most {max_bytes:,}. It was not loaded.")
        # By the name of the branch again, so that the cache knows it offline.
        path = Path(api.hf_hub_download(file.repo_id, file.path, revision=file.revision, **options))
        expected = _hash_of_link(path) or (None if local_files_only else _hash_by_asking(api, file, path))
    content = read_bytes(path, max_bytes, HubError, file.kind)  # what came need not be what was announced
    if expected is not None:
        _verify(file, path, content, expected)
    return path


def _api(token: str | bool | None, endpoint: str | None) -> HfApi:
    from huggingface_hub import HfApi

    if isinstance(token, str) and not _TOKEN.fullmatch(token):  # the error of the library below would show it
        raise HubError("The token holds a space, a line break or a letter that no token has. Copy it again.")
    return HfApi(endpoint=endpoint, token=token, library_name="dit_accel")


def _httpx() -> Any:
    """The library under huggingface_hub: httpx or httpx2, by its version."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported lazily

    return httpx


def _hash_of_link(path: Path) -> str | None:
    """The ETag that the Hub gave: the cache is links to blobs that are named so. None on a system without links."""
    return Path(os.readlink(path)).name if path.is_symlink() else None


def _hash_by_asking(api: HfApi, file: HubFile, path: Path) -> str | None:
    """The ETag that the Hub gives now; None if it cannot be asked."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled

    commit = path.parents[1].name  # of snapshots/COMMIT/dit_accel/NAME.json
    url = hf_hub_url(file.repo_id, file.path, revision=commit, endpoint=api.endpoint)
    try:
        return get_hf_file_metadata(url, token=api.token).etag
    except (OfflineModeIsEnabled, _httpx().HTTPError):
        return None


def _verify(file: HubFile, path: Path, content: bytes, expected: str) -> None:
    """Raise unless the content has the hash: git's of a regular file, SHA-256 of one in LFS."""
    if _SHA256.fullmatch(expected):
        actual = hashlib.sha256(content).hexdigest()
    elif _GIT_SHA1.fullmatch(expected):
        actual = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        raise HubError(f"The Hub gave {quoted(expected)} as the ETag of {file}, which is no hash to compare it with.")
    if actual != expected:
        raise HubError(
            f"{file} is damaged: the hash of its content is {actual}, the Hub's is {expected}. Delete "
            f"{os.path.realpath(path)}, or load it with force_download=True."
        )


@contextmanager
def _explained(file: HubFile, api: HfApi, *, is_upload: bool) -> Iterator[None]:
    """Whatever goes wrong with the Hub inside is a `HubError` that says what to do."""
    try:
        yield
    except (_httpx().HTTPError, OSError, ValueError) as problem:
        explain = _why_no_upload if is_upload else _why_no_download
        raise HubError(without_secrets(explain(problem, file, api))) from problem


def _why_no_upload(problem: Exception, file: HubFile, api: HfApi) -> str:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(problem, RevisionNotFoundError):
        return f"{file.repo_id} has no branch {file.revision!r}. Create it first, or leave revision out."
    status = problem.response.status_code if isinstance(problem, HfHubHTTPError) else None
    if isinstance(problem, RepositoryNotFoundError) or status in (401, 403):
        return (
            f"{file.repo_id} cannot be written: {api.endpoint} answered {status}. Log in with a token that may write "
            "there ('hf auth login', or token=...), or give a repository of your own."
        )
    return _unexpected(problem, file, api)


def _why_no_download(problem: Exception, file: HubFile, api: HfApi) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(problem, GatedRepoError):  # a kind of RepositoryNotFoundError
        return (
            f"{file.repo_id} is gated. Ask for access at {api.endpoint}/{file.repo_id}, then log in ('hf auth login', "
            "or token=...)."
        )
    if isinstance(problem, RepositoryNotFoundError):
        return (
            f"There is no model repository {file.repo_id!r} at {api.endpoint} that you may see. Check the name; for a "
            "private one log in ('hf auth login', or token=...)."
        )
    if isinstance(problem, RevisionNotFoundError):
        return f"{file.repo_id} has no revision {file.revision!r}. Give a branch, a tag or a commit that it has."
    if isinstance(problem, RemoteEntryNotFoundError):
        known = _names(file, api)
        return (
            f"{file.repo_id} has no {file.kind} {file.name!r} at {file.path}. It has: {', '.join(known) or 'none'}."
            f"{did_you_mean(file.name, known)}"
        )
    if isinstance(problem, LocalEntryNotFoundError):
        return (
            f"{file} is not in the cache, and the Hub was not reached ({_one_line(problem.__cause__ or problem)}). "
            "Load it once with a connection, without HF_HUB_OFFLINE and local_files_only."
        )
    return _unexpected(problem, file, api)


def _names(file: HubFile, api: HfApi) -> list[str]:
    """Names of the files of this kind that the repository has."""
    suffix = _SUFFIXES[file.kind]
    try:
        entries = islice(api.list_repo_tree(file.repo_id, FOLDER, revision=file.revision), _MOST_NAMES)
        paths = [entry.path for entry in entries]
    except _httpx().HTTPError:  # there is no such folder, or the connection broke
        paths = []
    names = [path.rpartition("/")[2].removesuffix(suffix) for path in paths if path.endswith(suffix)]
    return sorted(name for name in names if _NAME.fullmatch(name))


def _unexpected(problem: Exception, file: HubFile, api: HfApi) -> str:
    return f"{file} failed at {api.endpoint}: {_one_line(problem)}. Check the connection, and try again."


def _one_line(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:300].rstrip(".")
