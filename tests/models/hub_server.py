"""A small hub on this machine: the routes that huggingface_hub asks, from folders, with gates, redirects, and connections that drop.

What the real hub does and clients depend on is done here, too: commits in `X-Repo-Commit`, weights behind a redirect to another host with
their size in `X-Linked-Size`, ranges, and error codes in headers. Everything asked is logged.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_good"
LARGE = (".safetensors", ".bin", ".ckpt")  # kept apart from small files, as git-lfs does


@dataclass
class Repository:
    """`commits`: {commit: folder}, the last one is main. gated: who has not accepted its licence gets nothing but the listing."""

    commits: dict[str, Path]
    gated: bool = False
    about: dict = field(default_factory=dict)

    @property
    def main(self) -> str:
        return list(self.commits)[-1]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    sent: int  # bytes of the body


@dataclass
class Hub:
    """`repositories` by id; `renamed`: old id -> new id; `drops`: file name -> after how many bytes its next connections end;
    `deaf`: ranges are ignored. `log`: what was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    drops: dict[str, list[int]] = field(default_factory=dict)
    deaf: bool = False
    log: list[Request] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def sent(self, suffix: str = "") -> int:
        """Bytes of files sent whose path ends so."""
        return sum(request.sent for request in self.log if request.path.endswith(suffix) and "/api/" not in request.path)

    def fetched(self) -> list[str]:
        """Names of the large files of which anything was sent."""
        return sorted({request.path.rpartition("=")[2] for request in self.log if request.path.startswith("/cdn/") and request.sent})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    # -------------------------------------------------------------------------------------------- routing

    def answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "cdn":
            path, name = Path("/" + "/".join(parts[1:])), parse_qs(urlsplit(self.path).query)["name"][0]
            return self.file(path, name)
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        identity = f"{owner}/{name}"
        if identity in self.hub.renamed:
            return self.redirect(self.path.replace(identity, self.hub.renamed[identity], 1), 307)
        if identity not in self.hub.repositories:
            return self.refuse(401, "RepoNotFound", "Repository not found")
        held = self.hub.repositories[identity]
        revision = rest[1] if len(rest) > 1 else "main"
        commit = held.main if revision in ("main", "HEAD") else revision
        if commit not in held.commits:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id: " + revision)
        if api:
            tree = rest[:1] == ["tree"]
            return self.json(self.tree(held, commit) if tree else self.info(identity, held, commit))
        return self.resolve(held, commit, "/".join(rest[2:]))

    def info(self, identity: str, held: Repository, commit: str) -> dict:
        files = [{"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]} for entry in self.tree(held, commit)]
        return {"id": identity, "modelId": identity, "sha": commit, "private": False, "gated": "auto" if held.gated else False,
                "disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": files, "cardData": held.about}  # fmt: skip

    @staticmethod
    def tree(held: Repository, commit: str) -> list[dict]:
        folder, found = held.commits[commit], []
        for path in sorted(place for place in folder.rglob("*") if place.is_file()):
            entry = {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": _digest(path, "sha1")}
            large = {"lfs": {"oid": _digest(path, "sha256"), "size": entry["size"], "pointerSize": 134}}
            found.append(entry | (large if path.suffix in LARGE else {}))
        return found

    def resolve(self, held: Repository, commit: str, name: str) -> None:
        path = held.commits[commit] / name
        bearer = self.headers.get("Authorization")
        if held.gated and bearer != f"Bearer {TOKEN}" and name != "README.md":
            return self.refuse(403 if bearer else 401, "GatedRepo", "Access to this model is restricted")
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        if path.suffix in LARGE:
            more = {"X-Repo-Commit": commit, "X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": f'"{_digest(path, "sha256")}"'}
            return self.redirect(f"{self.hub.cdn}/cdn{path}?name={name}", 302, more)
        return self.file(path, name, {"X-Repo-Commit": commit, "ETag": f'"{_digest(path, "sha1")}"'})

    # -------------------------------------------------------------------------------------------- bodies

    def file(self, path: Path, name: str, more: dict | None = None) -> None:
        data, asked = path.read_bytes(), None if self.hub.deaf else self.headers.get("Range")
        size, first, last = len(data), 0, len(data) - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        body = data[first : last + 1]
        ranged = {"Content-Range": f"bytes {first}-{last}/{size}"} if asked else {}
        cuts = self.hub.drops.get(name) if self.command == "GET" else None
        self.send(206 if asked else 200, body, {"Accept-Ranges": "bytes", **ranged, **(more or {})}, cuts.pop(0) if cuts else None)

    def json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def redirect(self, target: str, status: int, more: dict | None = None) -> None:
        self.send(status, b"", {"Location": target, **(more or {})})

    def refuse(self, status: int, code: str, message: str, more: dict | None = None) -> None:
        self.send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message, **(more or {})})

    def send(self, status: int, body: bytes, headers: dict, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body if cut is None else body[:cut]
        self.hub.log.append(Request(self.command, self.path, self.headers.get("Range"), len(sent)))
        try:
            self.wfile.write(sent)
            self.wfile.flush()
        except OSError:  # the client has read enough
            self.close_connection = True
        if cut is not None:
            self.close_connection = True


def _digest(path: Path, kind: str) -> str:
    return hashlib.new(kind, path.read_bytes()).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub at `hub.url`; its large files come from the same machine under another name, `hub.cdn`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url, hub.cdn = (f"http://{name}:{server.server_address[1]}" for name in ("127.0.0.1", "localhost"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
