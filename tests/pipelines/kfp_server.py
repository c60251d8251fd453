"""A Kubeflow Pipelines server (REST, v2beta1) over HTTP, with its state in memory and faults on demand.

What it answers is in kfp_answers.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.pipelines.kfp_answers import Json, answer, error_body


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" matches.

    Attributes:
        kind: A status to answer instead; "before" and "after" drop the connection before and after the
            state has changed; "slow" answers, later than clients wait.
        match: A regular expression, searched.
        skip: Matching requests that still go well.
        times: Requests that go wrong then.
    """

    kind: int | Literal["before", "after", "slow"]
    match: str = ""
    skip: int = 0
    times: int = 1

    def strikes(self, request: str) -> bool:
        if not re.search(self.match, request):
            return False
        self.skip -= 1
        if self.skip >= 0 or self.times <= 0:
            return False
        self.times -= 1
        return True


@dataclass
class Kfp:
    """The server's state, and what a test sets and reads.

    Attributes:
        host: Its address.
        token: What requests must bear, where set.
        multi_user: Whether a namespace must be given.
        script: The states a run goes through, one for each time it is asked for.
        delay: Seconds by which a slow answer is late.
        faults: Tried on every request, the first that strikes wins.
        requests: "METHOD /path" of all, as they came.
        history: The recurring runs after each change of any of them.
    """

    host: str = ""
    token: str = ""
    multi_user: bool = False
    script: tuple[str, ...] = ("PENDING", "RUNNING", "RUNNING", "SUCCEEDED")
    delay: float = 0.8
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    history: list[list[Json]] = field(default_factory=list)
    experiments: dict[str, Json] = field(default_factory=dict)
    pipelines: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    recurring: dict[str, Json] = field(default_factory=dict)

    def remember(self) -> None:
        self.history.append(json.loads(json.dumps(list(self.recurring.values()))))


@contextmanager
def serving() -> Iterator[Kfp]:
    """A server on a free port of this machine."""
    state, lock = Kfp(), threading.RLock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body in one packet

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path, request = urlsplit(self.path).path, f"{self.command} {urlsplit(self.path).path}"
            with lock:
                state.requests.append(request)
                kind = next((fault.kind for fault in state.faults if fault.strikes(request)), None)
                if kind == "before":
                    return self.drop()
                status, content = answer(state, self, body) if not isinstance(kind, int) else (kind, None)
            if kind == "after":
                return self.drop()
            if kind == "slow":
                time.sleep(state.delay)
            if content is None:
                content = error_body(status, f"injected into {request}", "upload" in path)
            return self.reply(status, content)

        def drop(self) -> None:
            self.close_connection = True
            self.connection.close()

        def reply(self, status: int, content: Json) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # we dropped it, or a client waited no longer
                super().handle()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.host = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
