"""A small Hugging Face hub on the loopback address: repositories of commits, as huggingface_hub talks to them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:\?.*)?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)")


class Hub:
    """Repository to commits, newest last; each is a dict of file name to bytes."""

    def __init__(self):
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[str] = []
        self.gated: set[str] = set()
        """Repositories that nobody sees without a token."""
        self.refusal: tuple[int, str] | None = None
        """Status and error code of all answers to those without the right token, ``Bearer hf_right``."""
        self.cut: set[str] = set()
        """Files of which half is sent, once."""
        self.busy: set[str] = set()
        """Ends of paths that are answered with 503, once."""

    def commit(self, repo, revision):
        commits = self.repos.get(repo, [])
        return next((each for each in reversed(commits) if revision in (None, "main", each[0])), None)

    def push(self, repo, files, deleted=()):
        commits = self.repos.setdefault(repo, [])
        before = commits[-1][1] if commits else {}
        whole = {name: data for name, data in {**before, **files}.items() if name not in deleted}
        oid = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        commits.append((oid, whole))
        return oid


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        raw = self.read_body()
        self.server.state.requests.append(self.path)
        if self.is_refused() or self.is_busy():
            return None
        if self.path == "/api/repos/create":
            body = json.loads(raw)
            repo = f"{body.get('organization') or 'me'}/{body['name']}"
            self.server.state.repos.setdefault(repo, [])
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{repo}", "id": repo, "name": repo})
        repo = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(raw)["files"]
            ]
            return self.answer(200, {"files": files})
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in raw.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            deleted = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
            oid = self.server.state.push(repo, files, deleted)
            url = f"http://{self.headers['Host']}/{repo}/commit/{oid}"
            return self.answer(200, {"commitUrl": url, "commitOid": oid, "success": True})
        return self.answer(200, {})

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self):
        self.server.state.requests.append(self.path)
        if self.is_refused():
            return None
        if "Authorization" not in self.headers and any(f"/{repo}" in self.path for repo in self.server.state.gated):
            return self.answer(401, {"error": "gated"}, X_Error_Code="GatedRepo")
        return self.give()

    def is_refused(self):
        refusal = self.server.state.refusal
        if refusal is None or self.headers.get("Authorization") == "Bearer hf_right":
            return False
        self.answer(refusal[0], {"error": "no"}, **({"X_Error_Code": refusal[1]} if refusal[1] else {}))
        return True

    def is_busy(self):
        now = {end for end in self.server.state.busy if self.path.endswith(end)}
        self.server.state.busy -= now
        if now:
            self.answer(503, {"error": "busy"})
        return bool(now)

    def give(self):
        if match := _FILE.fullmatch(self.path.split("?")[0]):
            found = self.server.state.commit(match[1], match[2])
            if found is None or match[3] not in found[1]:
                return self.answer(404, b"", X_Error_Code="EntryNotFound")
            data = found[1][match[3]]
            etag = hashlib.sha1(data).hexdigest()
            if self.command == "GET" and match[3] in self.server.state.cut:
                self.server.state.cut.remove(match[3])
                self.close_connection = True
                return self.answer(200, data[: len(data) // 2], Content_Length=str(len(data)), ETag=f'"{etag}"')
            return self.answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=found[0], Accept_Ranges="bytes")
        if match := _INFO.fullmatch(self.path):
            found = self.server.state.commit(match[1], match[2])
            if found is None:
                return self.answer(404, {"error": "not found"}, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": name} for name in found[1]]
            return self.answer(200, {"id": match[1], "sha": found[0], "siblings": siblings, "private": False})
        return self.give_tree()

    def give_tree(self):
        match = _TREE.fullmatch(self.path.split("?")[0])
        if match is None:
            return self.answer(404, {"error": self.path}, X_Error_Code="RepoNotFound")
        found = self.server.state.commit(match[1], match[2]) or ("", {})
        files = [{"type": "file", "path": name, "size": len(data), "oid": ""} for name, data in found[1].items()]
        return self.answer(200, files)

    def do_HEAD(self):
        self.do_GET()


@contextlib.contextmanager
def hub():
    """The hub and its address, while the block runs."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state = state
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
