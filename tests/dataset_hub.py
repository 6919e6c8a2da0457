"""A data set behind the hub's HTTP API, on this machine: what the `datasets` library asks for, and nothing else."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

REPO, SHA = "openai/gsm8k", "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body):
        root, url = self.server.root, urlparse(self.path)
        path = unquote(url.path)
        if path.startswith(f"/datasets/{REPO}/resolve/"):
            revision, _, name = path.removeprefix(f"/datasets/{REPO}/resolve/").partition("/")
            if revision not in ("main", SHA):
                return self.refuse("RevisionNotFound")
            return self.file(root / name) if (root / name).is_file() else self.refuse("EntryNotFound")
        if not path.startswith(f"/api/datasets/{REPO}"):
            return self.refuse("RepoNotFound")
        what, _, rest = path.removeprefix(f"/api/datasets/{REPO}").strip("/").partition("/")
        if what == "tree":
            folder = root / rest.partition("/")[2]
            deep = parse_qs(url.query).get("recursive") == ["true"]
            return self.say([self.leaf(found) for found in sorted(folder.rglob("*") if deep else folder.iterdir())])
        if what == "paths-info":
            asked = parse_qs(body.decode()).get("paths", []) if b"=" in body else json.loads(body)["paths"]
            return self.say([self.leaf(root / name) for name in asked if name and (root / name).exists()])
        return self.say({"id": REPO, "sha": SHA, "private": False, "gated": False, "tags": [], "siblings": []})

    def leaf(self, path):
        name = str(path.relative_to(self.server.root))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
        content = path.read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, path):
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.finish_with(content)

    def say(self, values):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.finish_with(json.dumps(values).encode())

    def finish_with(self, content):
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(root):
    """The address of a hub that has the folder `root` as its one data set, at one commit."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.root = True, root
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
