"""A local server that replaces the Hugging Face Hub for pushes and pulls.

It stores commits with hashes, requires the token where the hub does, and can be set to fail. Large
files go through the LFS endpoints. The client must not use xet (HF_HUB_DISABLE_XET), whose servers
are not available here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_e2eTESTtoken0123456789abcdef"
LARGE = (".safetensors", ".pt")
"""File endings that the .gitattributes of the hub store through LFS."""


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repo:
    """commits  hash -> path -> content, in order; the last one is main"""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, files: Mapping[str, bytes], message: str = "by hand") -> str:
        """Add a commit to main and return its hash."""
        content = self.files | dict(files)
        content_id = json.dumps(
            [list(self.commits), {path: lfs_hash(data) for path, data in content.items()}]
        )
        commit = hashlib.sha1(content_id.encode()).hexdigest()
        self.commits[commit] = content
        self.messages.append(message)
        return commit

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """The files of main."""
        return self.commits[self.head] if self.commits else {}

    def resolve(self, revision: str) -> str | None:
        known = {"main": self.head, **self.tags, **{commit: commit for commit in self.commits}}
        return known.get(revision)


@dataclass(frozen=True)
class Answer:
    """A wrong response that the server sends."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Hub(ThreadingHTTPServer):
    """The server and the settings that tests may change.

    repos     name -> repository
    requests  (method, path, Authorization) of every request
    faults    regular expression of `METHOD path` -> the response to send instead
    served    path -> content to send instead of the stored one
    sizes     path -> size to report in listings
    watch     called with `METHOD path` of every request before its response
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.faults: dict[str, Answer] = {}
        self.served: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.watch: Callable[[str], None] = lambda request: None

    def add_repo(self, name: str, files: Mapping[str, bytes], private: bool = False) -> str:
        """Add a repository of another user and return its first commit."""
        self.repos[name] = Repo(private)
        return self.repos[name].add(files)

    def asked(self, pattern: str) -> list[str]:
        """The requests so far that match a pattern."""
        lines = [f"{method} {path}" for method, path, _ in self.requests]
        return [line for line in lines if re.search(pattern, line)]

    def handle_error(self, *_: object) -> None:
        """Ignore errors: an interrupted client closes its connection."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Send each response at once: two parts would wait for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        self.server.requests.append((self.command, path, token))
        asked = f"{self.command} {path}"
        self.server.watch(asked)
        fault = next(
            (answer for pattern, answer in self.server.faults.items() if re.search(pattern, asked)),
            None,
        )
        self._send(fault or self._right_answer(path, body, token == f"Bearer {TOKEN}"))

    def _right_answer(self, path: str, body: bytes, known: bool) -> Answer:
        for pattern, method, answer in ROUTES:
            if self.command == method and (found := re.fullmatch(pattern, path)):
                name = found.groupdict().get("repo")
                repo = self.server.repos.get(name or "")
                if method == "POST" and not known:
                    return json_answer(401, {"error": "Invalid username or password."})
                if name and (repo is None or (repo.private and not known)):
                    return json_answer(
                        404 if known else 401,
                        {"error": "Repository not found"},
                        code="RepoNotFound",
                    )
                return answer(self.server, repo, found.groupdict(), body)
        return json_answer(404, {"error": f"the test server has no {self.command} {path}"})

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass


def json_answer(status: int, content: Any, code: str | None = None) -> Answer:
    headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
    return Answer(status, headers, json.dumps(content).encode())


def create(hub: Hub, _: Repo | None, __: Mapping[str, str], body: bytes) -> Answer:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}"
    if name in hub.repos:
        return json_answer(
            409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
        )
    hub.add_repo(
        name,
        {".gitattributes": b"*.safetensors filter=lfs\n"},
        asked.get("visibility") == "private",
    )
    return json_answer(200, {"url": f"{hub.url}/{name}"})


def info(hub: Hub, repo: Repo, asked: Mapping[str, str], _: bytes) -> Answer:
    commit = repo.resolve(asked.get("revision") or "main")
    if commit is None:
        return json_answer(
            404, {"error": f"Invalid rev id: {asked['revision']}"}, code="RevisionNotFound"
        )
    return json_answer(
        200,
        {"id": asked["repo"], "sha": commit, "private": repo.private, "tags": [], "siblings": []},
    )


def tree(hub: Hub, repo: Repo, asked: Mapping[str, str], _: bytes) -> Answer:
    commit = repo.resolve(asked["revision"])
    if commit is None:
        return json_answer(
            404, {"error": f"Invalid rev id: {asked['revision']}"}, code="RevisionNotFound"
        )
    files = repo.commits[commit]
    folders = sorted({path.partition("/")[0] for path in files if re.match("[a-z][^/]*/", path)})
    listed = [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in folders]
    return json_answer(
        200, listed + [entry(path, content, hub.sizes.get(path)) for path, content in files.items()]
    )


def entry(path: str, content: bytes, size: int | None) -> dict[str, Any]:
    size = len(content) if size is None else size
    shown = {"type": "file", "path": path, "size": size, "oid": git_hash(content)}
    if path.endswith(LARGE):
        shown["lfs"] = {"oid": lfs_hash(content), "size": size, "pointerSize": 130}
    return shown


def validate_yaml(_: Hub, __: Repo | None, ___: Mapping[str, str], body: bytes) -> Answer:
    front = json.loads(body)["content"].split("---\n")[1]
    return json_answer(
        200 if isinstance(yaml.safe_load(front), dict) else 400, {"errors": [], "warnings": []}
    )


def preupload(hub: Hub, repo: Repo, asked: Mapping[str, str], body: bytes) -> Answer:
    """Reply with the upload mode of each file and the hash of its stored content."""
    answers = []
    for file in json.loads(body)["files"]:
        path = file["path"]
        is_large = path.endswith(LARGE)
        stored = repo.files.get(path)
        oid = None if stored is None else (lfs_hash if is_large else git_hash)(stored)
        mode = "lfs" if is_large else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return json_answer(200, {"files": answers})


def lfs_batch(hub: Hub, _: Repo, __: Mapping[str, str], body: bytes) -> Answer:
    objects = []
    for asked in json.loads(body)["objects"]:
        upload = {"actions": {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}}
        objects.append(asked | ({} if asked["oid"] in hub.large else upload))
    return json_answer(200, {"transfer": "basic", "objects": objects})


def lfs_put(hub: Hub, _: Repo | None, asked: Mapping[str, str], body: bytes) -> Answer:
    if lfs_hash(body) != asked["oid"]:
        return json_answer(422, {"error": "the content has another hash"})
    hub.large[asked["oid"]] = body
    return json_answer(200, {})


def commit(hub: Hub, repo: Repo, asked: Mapping[str, str], body: bytes) -> Answer:
    """Store a commit from NDJSON: a header, then files with content or with an LFS hash."""
    header, *operations = [json.loads(line) for line in body.splitlines()]
    if header["value"].get("parentCommit", repo.head) != repo.head:
        return json_answer(
            412, {"error": "A commit has happened since. Please refresh and try again."}
        )
    files = {}
    for operation in operations:
        value = operation["value"]
        is_large = operation["key"] == "lfsFile"
        files[value["path"]] = (
            hub.large[value["oid"]] if is_large else base64.b64decode(value["content"])
        )
    made = repo.add(files, header["value"]["summary"])
    return json_answer(
        200,
        {
            "success": True,
            "commitOid": made,
            "commitUrl": f"{hub.url}/{asked['repo']}/commit/{made}",
        },
    )


def resolve(hub: Hub, repo: Repo, asked: Mapping[str, str], _: bytes) -> Answer:
    """Send a file of a revision with the headers that the client cache needs."""
    commit = repo.resolve(asked["revision"])
    content = repo.commits[commit].get(asked["path"]) if commit else None
    if commit is None or content is None:
        return json_answer(
            404, {"error": "not found"}, code="EntryNotFound" if commit else "RevisionNotFound"
        )
    etag = (lfs_hash if asked["path"].endswith(LARGE) else git_hash)(content)
    headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
    return Answer(200, headers, hub.served.get(asked["path"], content))


REPO = r"(?P<repo>[^/]+/[^/]+?)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    (r"/api/repos/create", "POST", create),
    (r"/api/validate-yaml", "POST", validate_yaml),
    (rf"/api/models/{REPO}", "GET", info),
    (rf"/api/models/{REPO}/revision/(?P<revision>.+)", "GET", info),
    (rf"/api/models/{REPO}/tree/(?P<revision>.+)", "GET", tree),
    (rf"/api/models/{REPO}/preupload/(?P<revision>.+)", "POST", preupload),
    (rf"/api/models/{REPO}/commit/(?P<revision>.+)", "POST", commit),
    (rf"/{REPO}\.git/info/lfs/objects/batch", "POST", lfs_batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", "PUT", lfs_put),
    (rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "HEAD", resolve),
    (rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "GET", resolve),
]


@contextmanager
def open_hub() -> Iterator[Hub]:
    """A running hub without repositories."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        hub.shutdown()
