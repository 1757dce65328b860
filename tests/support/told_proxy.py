"""A proxy as the built-in governance sees one: it hears whose limits or keys have changed."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADMIN_KEY = "admin-test-key"


class Proxy(ThreadingHTTPServer):
    """Hears what it is told. status: what it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[str] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        proxy = self.server
        assert isinstance(proxy, Proxy)
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (self.path, self.headers["authorization"]) == ("/admin/users/refresh", f"Bearer {ADMIN_KEY}")
        if proxy.status == 200:
            proxy.heard += json.loads(body)["users"]
        self.send_response(proxy.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def told_proxy() -> Iterator[Proxy]:
    """One that listens."""
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)
