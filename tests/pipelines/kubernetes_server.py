"""A Kubernetes API server as far as InferenceServices go: state, versions, rights and faults, over HTTP."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = re.compile(r"/apis/serving\.kserve\.io/v1beta1/namespaces/([^/]+)/inferenceservices/([^/]+)")
Service = dict[str, Any]


@dataclass
class Kubernetes:
    """What the server holds.

    Attributes:
        services: By (namespace, name).
        token: That requests must carry; None asks for none.
        forbidden: Methods that its role does not allow.
        before_patch: Called before a patch is applied, as somebody who writes at the same time.
        requests: (method, path), in order.
    """

    services: dict[tuple[str, str], Service] = field(default_factory=dict)
    token: str | None = None
    forbidden: set[str] = field(default_factory=set)
    before_patch: Callable[[], None] = lambda: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def add(self, namespace: str, name: str, **model: Any) -> Service:
        service = {
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": "1"},
            "spec": {"predictor": {"minReplicas": 1, "model": {"runtime": "graft", **model}}},
        }
        self.services[namespace, name] = service
        return service

    def touch(self, namespace: str, name: str) -> None:
        metadata = self.services[namespace, name]["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    def answer(
        self, method: str, path: str, token: str | None, kind: str, body: bytes
    ) -> tuple[int, Service]:
        self.requests.append((method, path))
        found = PATH.fullmatch(path)
        if self.token and token != f"Bearer {self.token}":
            return 401, status("Unauthorized")
        if method in self.forbidden:
            return 403, status(f'inferenceservices "champion" is forbidden: cannot {method.lower()}')
        if found is None or found.groups() not in self.services:
            return 404, status(f"inferenceservices not found: {path}")
        place: tuple[str, str] = found.groups()  # type: ignore[assignment]
        if method == "PATCH":
            if kind != "application/merge-patch+json":
                return 415, status(f"the body of the request was in an unknown format: {kind}")
            self.before_patch()
            change = json.loads(body)
            stated = change["metadata"].pop("resourceVersion", None)
            if stated not in (None, self.services[place]["metadata"]["resourceVersion"]):
                return 409, status("the object has been modified; please apply your changes to the latest")
            self.services[place] = merged(self.services[place], change)
            self.touch(*place)
        return 200, self.services[place]


def status(message: str) -> Service:
    return {"kind": "Status", "status": "Failure", "message": message}


def merged(old: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    done = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            done.pop(key, None)
        else:
            done[key] = merged(done.get(key), value)
    return done


@contextmanager
def running() -> Iterator[Kubernetes]:
    state = Kubernetes()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token, kind = self.headers.get("Authorization"), self.headers.get("Content-Type", "")
            code, answer = state.answer(self.command, self.path, token, kind, body)
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = _handle

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
