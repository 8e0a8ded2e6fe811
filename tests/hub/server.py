"""A Hub for tests: a real HTTP server that speaks as much of the protocol as huggingface_hub needs here.

Regular files have the ETag that git gives them; those in ``lfs`` have their SHA-256, and are redirected.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_may_write"
MAIN = "main"


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repo:
    """Commits, newest last, and what names point to."""

    private: bool = False
    gated: bool = False
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)

    def commit(self, files: dict[str, bytes], ref: str = MAIN, parent: str = MAIN) -> str:
        tree = {**self.trees.get(self.refs.get(parent, ""), {}), **files}
        oid = hashlib.sha1(repr((len(self.trees), sorted(tree.items()))).encode()).hexdigest()
        self.trees[oid] = tree
        self.refs[ref] = oid
        return oid

    def etag(self, path: str, content: bytes) -> str:
        return hashlib.sha256(content).hexdigest() if path in self.lfs else git_sha1(content)


class Refusal(Exception):
    """An answer with an error, as the Hub gives it."""

    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "", url: str = "") -> None:
        self.status, self.body = status, {"error": message, "url": url}
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}


@dataclass
class Hub:
    """What the server serves, and what it was asked.

    ``sent`` changes the content of a file on the wire, ``claimed_etag`` and ``claimed_size`` what is said of it (an
    empty text: nothing); ``failure`` is the status that all requests get.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: Callable[[bytes], bytes] = lambda content: content
    claimed_etag: str | None = None
    claimed_size: str | None = None
    failure: int | None = None

    def methods(self) -> list[str]:
        """HTTP methods of the requests for files since the last call."""
        seen = [method for method, path in self.requests if "/resolve/" in path or "/blob-of/" in path]
        self.requests.clear()
        return seen

    def readable(self, repo_id: str, is_known: bool) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and not is_known):
            raise Refusal(404 if is_known else 401, "RepoNotFound", "Repository not found")
        return repo

    def tree(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.trees:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.trees[commit]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub on a free port of this machine."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    @property
    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, act: Callable[[list[str], bytes], None]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path))
        try:
            if self.hub.failure:
                raise Refusal(self.hub.failure, message="out of order")
            act([unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")], body)
        except Refusal as refusal:
            self._send(refusal.status, json.dumps(refusal.body).encode(), refusal.headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _read(self, parts: list[str], _: bytes) -> None:
        if parts[:2] == ["api", "models"] and len(parts) > 3:
            repo_id = "/".join(parts[2:4])
            repo = self.hub.readable(repo_id, self.is_known)
            if parts[4:5] == ["tree"]:
                self._list(repo, parts[5], "/".join(parts[6:]))
            else:
                self._json({"id": repo_id, "sha": repo.refs[MAIN]})
        elif parts[2:3] == ["resolve"]:
            self._file(self.hub.readable("/".join(parts[:2]), self.is_known), parts[3], "/".join(parts[4:]))
        elif parts[:1] == ["blob-of"]:  # where files in LFS are
            repo = self.hub.repos["/".join(parts[1:3])]
            self._send(200, self.hub.sent(repo.trees[parts[3]]["/".join(parts[4:])]))
        else:
            raise Refusal(404)

    def _list(self, repo: Repo, revision: str, folder: str) -> None:
        commit, tree = self.hub.tree(repo, revision)
        inside = {path: content for path, content in tree.items() if path.startswith(f"{folder}/")}
        if not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist", commit)
        self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
                for path, content in inside.items()
            ]
        )

    def _file(self, repo: Repo, revision: str, path: str) -> None:
        if repo.gated and not self.is_known:
            raise Refusal(401, "GatedRepo", "Access is restricted")
        commit, tree = self.hub.tree(repo, revision)
        if path not in tree:
            raise Refusal(404, "EntryNotFound", "Entry not found", commit)
        content = tree[path]
        etag = self.hub.claimed_etag or repo.etag(path, content)
        size = str(len(content)) if self.hub.claimed_size is None else self.hub.claimed_size
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path in repo.lfs:
            repo_id = next(name for name, known in self.hub.repos.items() if known is repo)
            location = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/blob-of/{repo_id}/{commit}/{path}"
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": size, "Location": location}
            self._send(302, b"", {**headers, **linked})
        elif self.command == "HEAD":
            self._send(200, b"", {**headers, "ETag": f'"{etag}"', "Content-Length": size})
        else:
            self._send(200, self.hub.sent(content), {**headers, "ETag": f'"{etag}"'})

    def _write(self, parts: list[str], body: bytes) -> None:
        if not self.is_known:
            raise Refusal(401, message="Invalid username or password.")
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repo_id = f"{wanted['organization']}/{wanted['name']}"
            if wanted["organization"] == "not-mine":
                raise Refusal(403, message="You don't have the rights to create a model under this namespace")
            if repo_id in self.hub.repos:
                raise Refusal(409, message="You already created this model repo", url=f"{self.hub.url}/{repo_id}")
            self.hub.repos[repo_id] = repo = Repo(private=wanted.get("visibility") == "private")
            repo.commit({".gitattributes": b""})
            self._json({"url": f"{self.hub.url}/{repo_id}"})
            return
        repo_id, action, revision = "/".join(parts[2:4]), parts[4], parts[5]
        repo = self.hub.readable(repo_id, self.is_known)
        _, tree = self.hub.tree(repo, revision)
        if action == "preupload":
            modes = [
                {
                    "path": entry["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": git_sha1(tree[entry["path"]]) if entry["path"] in tree else None,
                }
                for entry in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        else:
            self._commit(repo_id, repo, revision, [json.loads(line) for line in body.splitlines()])

    def _commit(self, repo_id: str, repo: Repo, revision: str, lines: list[dict[str, Any]]) -> None:
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        is_pr = "create_pr=1" in self.path
        target = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repo.refs)}" if is_pr else revision
        oid = repo.commit(files, target, parent=revision)
        url = f"{self.hub.url}/{repo_id}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        number = target.rpartition("/")[2]
        self._json({**answer, **({"pullRequestUrl": f"{url}/discussions/{number}"} if is_pr else {})})
