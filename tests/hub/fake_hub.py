"""A stand-in for the Hub's HTTP endpoint: models and data sets in memory, with commits, gates and private repositories.

It speaks as much of the protocol as huggingface_hub and datasets use to create, upload (large formats by LFS), list,
download and read by ranges. A data set's id has the prefix "datasets/" here, as in the Hub's addresses. Start it with
`FakeHub()`, and run clients with `HF_ENDPOINT` set to its `url` before huggingface_hub is imported, or start it at the
port where commands of `tests.started` look for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlparse

import yaml

# The only user, and the token by which the Hub knows them.
USER, TOKEN = "tester", "hf_fake"
API = re.compile(
    r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(auth-check|revision|tree|refs|preupload|commit|paths-info)(?:/(.*))?)?$"
)
RESOLVE = re.compile(r"^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LICENSES = {"mit", "apache-2.0", "cc-by-4.0", "other", "unknown"}
TASKS = {"robotics", "image-to-video", "video-to-video", "reinforcement-learning"}
PREFIXES = {"models": "", "datasets": "datasets/"}
Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: every commit's files, and which commit is the newest."""

    commits: dict[str, Files] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)  # with descriptions
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


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in a listing."""
    return {"type": "file", "oid": blob_id(content), "size": len(content), "path": path}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _upload_mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith((".parquet", ".safetensors")) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}


class FakeHub:
    """The server; it runs in a thread until `close`.

    Args:
        broken_upload: the number, from 0, of the large file whose upload breaks off; None: of none.
        port: where it is found; 0: at any free port.

    Attributes:
        uploads: the hash of every large file that was sent, broken off or not.
    """

    def __init__(self, broken_upload: int | None = None, port: int = 0) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: list[str] = []
        hub = self

        class Handler(_Handler):
            repos = hub.repos
            uploads = hub.uploads
            broken = broken_upload
            large_files: ClassVar[Files] = {}

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
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
    uploads: list[str]
    broken: int | None
    large_files: Files

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

    def writable(self, name: str) -> bool:
        """Whether who asks may write to a repository, or create it; if not, after the answer that says so."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized")
        elif name.removeprefix("datasets/").split("/")[0] != USER:
            gated = name in self.repos and self.repos[name].gated
            self.refuse(403, "GatedRepo" if gated else "You do not have the rights")
        else:
            return True
        return False

    # -- requests -------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        address = urlparse(self.path)
        path = unquote(address.path)
        if path == "/api/whoami-v2":
            return self.answer(200, {"type": "user", "name": USER, "orgs": []})
        if match := API.match(path):
            kind, repo_id, action, rest = match.groups()
            revision, _, folder = (rest or "main").partition("/")
            name = PREFIXES[kind] + repo_id
            if action == "auth-check":
                return self.answer(200) if self.visible(name, reading_files=True) else None
            if action == "tree":
                return self.list(name, revision, folder, recursive="recursive=true" in address.query.lower())
            return self.describe(name, revision)
        if match := RESOLVE.match(path):
            return self.download((match[1] or "") + match[2], match[3], match[4])
        return self.refuse(404, f"unknown address {path}")

    do_HEAD = do_GET  # noqa: N815

    def files_of(self, name: str, revision: str) -> tuple[str, Files] | None:
        """A commit and its files, or None after the answer that there is none."""
        repo = self.visible(name)
        if repo is None:
            return None
        sha = repo.resolve(revision)
        if sha is None:
            self.refuse(404, "RevisionNotFound")
            return None
        return sha, repo.commits[sha]

    def describe(self, name: str, revision: str) -> None:
        found = self.files_of(name, revision)
        if found is not None:
            sha, files = found
            siblings = [{"rfilename": path, "size": len(files[path])} for path in sorted(files)]
            info = {"id": name.removeprefix("datasets/"), "sha": sha, "tags": [], "siblings": siblings}
            self.answer(200, info | {"private": self.repos[name].private})

    def list(self, name: str, revision: str, folder: str, *, recursive: bool) -> None:
        found = self.files_of(name, revision)
        if found is None:
            return
        prefix = f"{folder}/" if folder else ""
        inside = {path: content for path, content in sorted(found[1].items()) if path.startswith(prefix)}
        if folder and not inside:
            return self.refuse(404, "EntryNotFound")
        folders = {
            parent for path in inside for parent in _parents(path) if parent.startswith(prefix) and parent != folder
        }
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)]
        entries += [entry(path, content) for path, content in inside.items()]
        if not recursive:
            entries = [found for found in entries if "/" not in found["path"].removeprefix(prefix)]
        return self.answer(200, entries)

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
        wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
        if wanted and self.command == "GET":
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.answer(206, content[first : last + 1], **headers)
        return self.answer(200, content, Accept_Ranges="bytes", **headers)

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        body = self.read_body()
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.offer_uploads(json.loads(body)["objects"])
        match = API.match(path)
        if not match or match[3] not in ("preupload", "commit", "paths-info"):
            return self.refuse(404, f"unknown address {path}")
        name = PREFIXES[match[1]] + match[2]
        repo = self.visible(name)
        if repo is None:
            return None
        if match[3] != "paths-info":
            proposes = "create_pr=1" in self.path and self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if not proposes and not self.writable(name):  # anybody may propose
                return None
            if repo.resolve(match[4]) is None:
                return self.refuse(404, "RevisionNotFound")
        if match[3] == "preupload":
            return self.answer(200, {"files": [_upload_mode(file["path"]) for file in json.loads(body)["files"]]})
        files = dict(repo.commits.get(repo.head, {}))
        if match[3] == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            return self.answer(200, [entry(path, files[path]) for path in wanted if path in files])
        lines = list(map(json.loads, body.splitlines()))
        for line in lines:
            self.change(files, line["key"], line["value"])
        head, sha = repo.head, repo.commit(files)
        header = next(value for key, value in ((line["key"], line["value"]) for line in lines) if key == "header")
        repo.messages[sha] = f"{header['summary']}\n{header['description']}"
        address = f"http://{self.headers['Host']}/{match[2]}"
        done = {"success": True, "commitUrl": f"{address}/commit/{sha}", "commitOid": sha, "hookOutput": ""}
        if "create_pr=1" in self.path:
            repo.head = head  # until somebody merges it
            done["pullRequestUrl"] = f"{address}/discussions/1"
        return self.answer(200, done)

    def validate(self, card: str) -> None:
        """Refuse what the Hub refuses: licences and tasks that it does not know."""
        metadata = yaml.safe_load(card.split("---")[1])
        known = {"license": LICENSES, "pipeline_tag": TASKS, "task_categories": TASKS}
        wrong = [
            f'"{key}" must be one of {sorted(values)}'
            for key, values in known.items()
            if not values.issuperset(_as_list(metadata.get(key)))
        ]
        if wrong:
            return self.answer(400, "; ".join(wrong).encode())
        return self.answer(200, {"errors": [], "warnings": []})

    def change(self, files: Files, key: str, value: dict[str, str]) -> None:
        """Apply one line of a commit."""
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.large_files[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)

    def offer_uploads(self, objects: list[dict[str, Any]]) -> None:
        """Where to put large files that are not here yet."""
        place = f"http://{self.headers['Host']}/lfs/"
        offers = [{"oid": o["oid"], "size": o["size"]} for o in objects]
        for offer in offers:
            if offer["oid"] not in self.large_files:
                offer["actions"] = {"upload": {"href": place + offer["oid"], "header": {}}}
        self.answer(200, {"transfer": "basic", "objects": offers}, Content_Type="application/vnd.git-lfs+json")

    def do_PUT(self) -> None:
        name, content = self.path.rsplit("/", 1)[-1], self.read_body()
        self.uploads.append(name)
        if len(self.uploads) - 1 == self.broken:
            return self.refuse(403, "the upload broke off")
        self.large_files[name] = content
        return self.answer(200, {})

    def create(self, request: dict[str, Any]) -> None:
        repo_id = f"{request.get('organization') or USER}/{request['name']}"
        name = PREFIXES[(request.get("type") or "model") + "s"] + repo_id
        if not self.writable(name):
            return None
        answer = {"url": f"http://{self.headers['Host']}/{name}", "name": repo_id, "id": repo_id}
        if name in self.repos:
            return self.answer(409, answer | {"error": "exists"})
        self.repos[name] = Repo(private=request.get("visibility") == "private")
        self.repos[name].commit({})
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
