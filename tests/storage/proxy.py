"""An HTTP proxy in front of an S3 server that does harm where it is told to, and counts requests."""

from __future__ import annotations

import http.client
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"
HARM = ("busy", "drop", "reset", "truncate", "flip")


class Proxy(ThreadingHTTPServer):
    """Forwards to `upstream`.

    Attributes:
        faults: What to do to the next requests whose path ends so, first one first: "busy" answers 503
            SlowDown, "drop" closes in the middle of the body, "reset" before any answer, "truncate" says
            and sends fewer bytes, "flip" changes one.
        counts: Requests by (method, path).
        ranges: The Range headers that came.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ranges: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}"  # a name: buckets must not come before it

    def forget(self) -> None:
        self.faults.clear()
        self.counts.clear()
        self.ranges.clear()

    def fetched(self, below: str = "") -> int:
        """How many object bodies were asked for below this path."""
        return sum(n for (verb, path), n in self.counts.items() if verb == "GET" and path.startswith(below))

    def fault(self, path: str) -> str | None:
        with self.lock:
            planned = next((self.faults[end] for end in self.faults if path.endswith(end)), [])
            return planned.pop(0) if planned else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _forward(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = "LIST" if "list-type" in self.path else self.command
        self.server.counts[kind, path] += 1
        self.server.ranges += self.headers.get_all("Range", [])
        fault = self.server.fault(path) if kind in ("GET", "LIST") else None
        if fault == "busy":
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        elif fault == "reset":
            self.close_connection = True
        else:
            upstream = http.client.HTTPConnection(self.server.upstream)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read(), fault)
            upstream.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None = None
    ) -> None:
        if fault == "truncate":
            body = body[: len(body) // 2]
        if fault == "flip" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if fault == "drop":
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be silent."""
