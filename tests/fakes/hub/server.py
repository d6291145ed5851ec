"""A hub as a process: ``python server.py FOLDER``. It says its port on stdout.

``FOLDER/OWNER/NAME/...`` are repositories, served both as Hugging Face serves them (``/api/models``, ``/resolve`` with
a redirect to a store of contents) and as ModelScope does (``/api/v1/models``). ``POST /faults`` says how it misbehaves
from then on, see ``FAULTS``; ``GET /seen`` says what was asked for, and how many bytes it sent of each file.
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "token-of-a-member"
SMALL = 64 * 1024
"""Smaller files have no SHA-256 at Hugging Face, but the hash that git gives them."""
BLOCK = 64 * 1024
FAULTS: dict[str, Any] = {
    "status": 0,  # of every answer, with ``retry_after``
    "retry_after": None,
    "times": 0,  # so many answers get that status; 0: all
    "cut_after": 0,  # bytes of one answer with a content; then the connection breaks
    "hold_after": 0,  # bytes of each file; then nothing comes any more
    "lie": "",  # the end of the path of a file whose contents are not what is listed, ``lies`` times
    "lies": 0,
    "gated": False,  # contents only for members; anybody may see what there is
    "private": False,  # strangers are told that there is nothing
    "silent": False,  # no answer at all
    "no_range": False,
}


class Hub(ThreadingHTTPServer):
    daemon_threads = True
    folder: Path

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = dict(FAULTS)
        self.seen: dict[str, Any] = {"requests": [], "sent": {}}
        self.lock = threading.Lock()
        self.released = threading.Event()

    def files(self, repository: str) -> dict[str, bytes] | None:
        root = self.folder / repository
        if not root.is_dir():
            return None
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are no errors here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self) -> None:
        change = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.released.set()
        with self.server.lock:
            self.server.released = threading.Event()
            self.server.faults = FAULTS | change
            self.server.seen = {"requests": [], "sent": {}}
        self.json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {key: value[0] for key, value in parse_qs(parts.query).items()}
        if path == "/seen":
            self.json(self.server.seen)
            return
        with self.server.lock:
            self.server.seen["requests"].append({"path": self.path, "headers": dict(self.headers)})
        if self.refused() or not self.route(path.strip("/").split("/"), query):
            return

    def refused(self) -> bool:
        faults = self.server.faults
        if faults["silent"]:
            released = self.server.released
            released.wait()
            self.close_connection = True
            return True
        member = self.headers.get("authorization") == f"Bearer {TOKEN}"
        is_content = "/resolve/" in self.path or "FilePath=" in self.path
        if faults["gated"] and not member and is_content:
            status = 403 if "authorization" in self.headers else 401
            self.json({"error": "gated"}, status, {"X-Error-Code": "GatedRepo"})
            return True
        if faults["private"] and not member and "/contents/" not in self.path:
            at_hugging_face = not self.path.startswith("/api/v1/")
            headers = {"X-Error-Code": "RepoNotFound"}
            self.json({"error": "Invalid username or password."}, 401 if at_hugging_face else 404, headers)
            return True
        with self.server.lock:
            if not faults["status"] or faults["times"] < 0:
                return False
            if faults["times"]:
                faults["times"] = faults["times"] - 1 or -1
        headers = {} if faults["retry_after"] is None else {"Retry-After": str(faults["retry_after"])}
        self.json({"error": "so it is"}, faults["status"], headers)
        return True

    def route(self, path: list[str], query: dict[str, str]) -> bool:
        match path:
            case ["api", "models", owner, name, "revision", revision]:
                return self.list_hugging_face(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision]:
                return self.list_tree(f"{owner}/{name}", revision)
            case ["api", "v1", "models", owner, name, *rest]:
                return self.route_modelscope(f"{owner}/{name}", rest, query)
            case ["contents", owner, name, *rest]:
                return self.content(f"{owner}/{name}", "/".join(rest))
            case [owner, name, "resolve", commit, *rest]:
                return self.redirect(f"{owner}/{name}", commit, "/".join(rest))
        return self.missing()

    def route_modelscope(self, repository: str, rest: list[str], query: dict[str, str]) -> bool:
        if rest == ["repo", "files"]:
            return self.list_modelscope(repository, query["Revision"])
        return self.content(repository, query["FilePath"]) if rest == ["repo"] else self.missing()

    def missing(self, what: str = "RepoNotFound") -> bool:
        self.json({"error": "there is no such thing"}, 404, {"X-Error-Code": what})
        return False

    def list_hugging_face(self, repository: str, revision: str) -> bool:
        files = self.server.files(repository)
        if files is None:
            return self.missing()
        if revision not in ("main", commit_of(files)):
            return self.missing("RevisionNotFound")
        siblings = []
        for path, content in files.items():
            one = {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
            if len(content) >= SMALL:
                one["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(one)
        self.json({"id": repository, "sha": commit_of(files), "siblings": siblings})
        return True

    def list_tree(self, repository: str, revision: str) -> bool:
        files = self.server.files(repository)
        if files is None or revision not in ("main", commit_of(files)):
            return self.missing()
        entries = []
        for path, content in files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            if len(content) >= SMALL:
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.json(entries)
        return True

    def list_modelscope(self, repository: str, revision: str) -> bool:
        files = self.server.files(repository)
        if files is None or revision != "master":
            return self.missing()
        folders = {path.rpartition("/")[0] for path in files if "/" in path}
        listed = [{"Path": path, "Type": "tree", "Size": 0, "Sha256": ""} for path in folders]
        listed += [
            {"Path": path, "Type": "blob", "Size": len(content), "Sha256": sha256(content)}
            for path, content in files.items()
        ]
        self.json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        return True

    def redirect(self, repository: str, commit: str, path: str) -> bool:
        files = self.server.files(repository) or {}
        if path not in files or commit != commit_of(files):
            return self.missing("EntryNotFound")
        content = files[path]
        if len(content) < SMALL:
            return self.content(repository, path, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit})
        elsewhere = f"http://localhost:{self.server.server_address[1]}"  # another origin: no tokens go there
        headers = {
            "Location": f"{elsewhere}/contents/{repository}/{path}",
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{sha256(content)}"',
            "X-Repo-Commit": commit,
        }
        self.json({}, 302, headers)
        return True

    def content(self, repository: str, path: str, headers: dict[str, str] | None = None) -> bool:
        content = (self.server.files(repository) or {}).get(path)
        if content is None:
            return self.missing()
        faults = self.server.faults
        with self.server.lock:
            if faults["lie"] and path.endswith(faults["lie"]) and faults["lies"]:
                faults["lies"] -= 1
                content = bytes(len(content))
        start, end, status, headers = 0, len(content), 200, dict(headers or {})
        asked = self.headers.get("range")
        if asked and not faults["no_range"]:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(end, int(last or end) + 1), 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self.begin(status, end - start, headers | {"Accept-Ranges": "bytes"})
        if self.command == "GET":
            self.send(path, content[:end], start)
        return True

    def send(self, path: str, content: bytes, start: int) -> None:
        for at in range(start, len(content), BLOCK):
            block = content[at : at + BLOCK]
            with self.server.lock:
                faults, released = self.server.faults, self.server.released
                cut = faults["cut_after"] and at - start >= faults["cut_after"]
                held = faults["hold_after"] and at >= faults["hold_after"]
                if cut:
                    faults["cut_after"] = 0
            if cut:
                self.close_connection = True
                return
            if held:
                self.wfile.flush()
                released.wait()
                self.close_connection = True
                return
            self.wfile.write(block)
            with self.server.lock:
                sent = self.server.seen["sent"]
                sent[path] = sent.get(path, 0) + len(block)

    def json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.begin(status, len(data), {"Content-Type": "application/json"} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(data)

    def begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Nobody reads a log."""


def commit_of(files: dict[str, bytes]) -> str:
    names = "".join(f"{path} {sha256(content)}\n" for path, content in sorted(files.items()))
    return hashlib.sha1(names.encode()).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    hub = Hub()
    hub.folder = Path(sys.argv[1])
    print(hub.server_address[1], flush=True)
    hub.serve_forever()
