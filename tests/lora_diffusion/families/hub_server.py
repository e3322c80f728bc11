"""A hub on this machine: enough of huggingface.co's protocol to list and fetch one model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `folder` as the model `owner/name`; `fetched` lists what was downloaded.

    `failure` makes every answer an error: its HTTP status and the hub's code for it.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fetched: list[str] = []
        self.requests = 0
        self.failure: tuple[int, str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self) -> dict[str, Path]:
        found = (p for p in sorted(self.folder.rglob("*")) if p.is_file())
        return {str(p.relative_to(self.folder)): p for p in found}


@contextmanager
def running(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def _answer(self, *, with_body: bool) -> None:
        hub = self.server
        hub.requests += 1
        path = unquote(urlsplit(self.path).path)
        if hub.failure:
            status, code = hub.failure
            return self._send(status, b"{}", {"X-Error-Code": code}, with_body)
        files = hub.files()
        if path.startswith(f"/owner/name/resolve/{COMMIT}/"):
            name = path.split(f"/{COMMIT}/", 1)[1]
            data = files[name].read_bytes()
            if with_body:
                hub.fetched.append(name)
            tag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self._send(200, data, tag, with_body)
        if path in ("/api/models/owner/name", "/api/models/owner/name/revision/main"):
            listed = [{"rfilename": n, "size": p.stat().st_size} for n, p in files.items()]
            body = {"id": "owner/name", "sha": COMMIT, "siblings": listed}
        elif path == f"/api/models/owner/name/tree/{COMMIT}":
            body = [
                {
                    "type": "file",
                    "path": n,
                    "size": p.stat().st_size,
                    "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
                }
                for n, p in files.items()
            ]
        else:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        return self._send(200, json.dumps(body).encode(), {}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
