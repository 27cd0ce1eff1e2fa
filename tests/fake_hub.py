"""A stand-in for the Hub's HTTP endpoint: model repositories in memory, with commits, gates and private repositories.

It speaks as much of the protocol as huggingface_hub uses to create, upload, list and download. Start it with
`FakeHub()`, and run clients with `HF_ENDPOINT` set to its `url` before huggingface_hub is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_fake"
Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: every commit's files, and which commit is the newest."""

    commits: dict[str, Files] = field(default_factory=dict)
    head: str = ""
    gated: bool = False
    private: bool = False

    def commit(self, files: Files) -> str:
        listing = json.dumps({path: blob_id(content) for path, content in sorted(files.items())})
        self.head = hashlib.sha1(f"{len(self.commits)}{listing}".encode()).hexdigest()
        self.commits[self.head] = files
        return self.head

    def resolve(self, revision: str) -> str | None:
        revision = self.head if revision == "main" else revision
        return revision if revision in self.commits else None


def blob_id(content: bytes) -> str:
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """The server; it runs in a thread until `close`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        hub = self

        class Handler(_Handler):
            repos = hub.repos

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo_id: str, folder: Any, **flags: bool) -> Repo:
        """Put a local folder on the hub as one commit."""
        repo = self.repos.setdefault(repo_id, Repo(**flags))
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        repo.commit(files)
        return repo

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: dict[str, Repo]

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    # -- answers --------------------------------------------------------------------------------------------------

    def answer(self, code: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, code: int, error: str) -> None:
        self.answer(code, {"error": error}, X_Error_Code=error, X_Error_Message=error)

    def visible(self, repo_id: str, *, reading_files: bool = False) -> Repo | None:
        """The repository, or None after the answer that the Hub gives to somebody who must not see it."""
        repo = self.repos.get(repo_id)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not known):
            # Without a token the Hub does not tell a missing repository from a private one.
            self.refuse(404 if known else 401, "RepoNotFound")
        elif repo.gated and reading_files and not known:
            self.refuse(401, "GatedRepo")
        else:
            return repo
        return None

    # -- requests -------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path == "/api/whoami-v2":
            return self.answer(200, {"type": "user", "name": "tester", "orgs": []})
        if match := re.match(r"^/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?$", path):
            return self.describe(match[1], match[2], match[3] or "main")
        if match := re.match(r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path):
            return self.download(*match.groups())
        return self.refuse(404, f"unknown address {path}")

    do_HEAD = do_GET  # noqa: N815

    def describe(self, repo_id: str, kind: str | None, revision: str) -> None:
        repo = self.visible(repo_id)
        if repo is None:
            return
        sha = repo.resolve(revision)
        if sha is None:
            return self.refuse(404, "RevisionNotFound")
        files = repo.commits[sha]
        if kind == "tree":
            entries = [
                {"type": "file", "oid": blob_id(content), "size": len(content), "path": path}
                for path, content in sorted(files.items())
            ]
            return self.answer(200, entries)
        siblings = [{"rfilename": path} for path in sorted(files)]
        info = {"id": repo_id, "sha": sha, "private": repo.private, "tags": [], "siblings": siblings}
        return self.answer(200, info)

    def download(self, repo_id: str, revision: str, path: str) -> None:
        repo = self.visible(repo_id, reading_files=True)
        if repo is None:
            return
        sha = repo.resolve(revision)
        if sha is None:
            return self.refuse(404, "RevisionNotFound")
        content = repo.commits[sha].get(path)
        if content is None:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        headers = {"ETag": f'"{blob_id(content)}"', "X_Repo_Commit": sha, "Content_Type": "application/octet-stream"}
        return self.answer(200, content, **headers)

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        body = self.read_body()
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        match = re.match(r"^/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)$", path)
        if not match:
            return self.refuse(404, f"unknown address {path}")
        repo = self.visible(match[1])
        if repo is None:
            return None
        if match[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        files = dict(repo.commits.get(repo.head, {}))
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        sha = repo.commit(files)
        url = f"http://{self.headers['Host']}/{match[1]}/commit/{sha}"
        return self.answer(200, {"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})

    def create(self, request: dict[str, Any]) -> None:
        repo_id = f"{request.get('organization') or 'tester'}/{request['name']}"
        answer = {"url": f"http://{self.headers['Host']}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.repos:
            return self.answer(409, answer | {"error": "exists"})
        self.repos[repo_id] = Repo(private=request.get("visibility") == "private")
        self.repos[repo_id].commit({})
        return self.answer(200, answer)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
