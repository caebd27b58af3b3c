"""The part of the Hub's HTTP interface that huggingface_hub speaks to push and pull a model, on this machine."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


class Repositories:
    """By name, the commits of each: a dictionary of files a commit."""

    def __init__(self):
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.messages: list[str] = []
        self.large: dict[str, bytes] = {}  # by SHA-256, as Git LFS has it

    def head(self, repo):
        commits = self.commits[repo]
        return hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest(), (commits or [{}])[-1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Repositories

    def log_message(self, *args):
        pass

    def do_POST(self):
        path, body = urlsplit(self.path).path, self._body()
        if self.headers.get("authorization") != "Bearer hf_right":
            return self._json({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.hub.commits:
                return self._json({"error": "exists", "url": f"{self._here}/{repo}"}, 409)
            self.hub.commits[repo] = []
            return self._json({"url": f"{self._here}/{repo}", "name": repo})
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return self._json({"warnings": [], "errors": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._json(
                {
                    "transfer": "basic",
                    "objects": [
                        {**o, "actions": {"upload": {"href": f"{self._here}/lfs/{o['oid']}"}}}
                        for o in json.loads(body)["objects"]
                    ],
                }
            )
        _, _, _, user, name, kind, *_ = path.split("/")
        repo = f"{user}/{name}"
        if kind == "preupload":
            mode = lambda path: "lfs" if path.endswith((".safetensors", "journal")) else "regular"  # noqa: E731
            files = [
                {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        assert kind == "commit", path
        _, files = self.hub.head(repo)
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            match line["key"], line["value"]:
                case "header", value:
                    self.hub.messages.append(value["summary"])
                case "file", value:
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile", value:
                    del files[value["path"]]
        self.hub.commits[repo].append(files)
        oid, _ = self.hub.head(repo)
        return self._json({"commitUrl": f"{self._here}/{repo}/commit/{oid}", "commitOid": oid})

    def do_PUT(self):
        content = self._body()
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        parts = path.split("/")[1:]
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo not in self.hub.commits:
            return self._json({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        oid, files = self.hub.head(repo)
        if parts[0] == "api" and parts[4:5] == ["tree"]:
            return self._json([self._entry(name, content) for name, content in files.items()])
        if parts[0] == "api":
            if parts[4:5] == ["revision"] and parts[5] not in ("main", oid):
                return self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return self._json({"id": repo, "sha": oid, "siblings": [{"rfilename": name} for name in files]})
        content = files["/".join(parts[4:])]
        tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": oid}
        return self._send(content, 200, tag | {"Content-Type": "application/octet-stream"})

    def _entry(self, name, content):
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    @property
    def _here(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, value, code=200, headers=None):
        self._send(json.dumps(value).encode(), code, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, content, code, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve():
    """Yields the address and what is stored."""
    hub = Repositories()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOf", (Handler,), {"hub": hub}))
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()
