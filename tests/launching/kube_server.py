"""The part of the Kubernetes API that a step uses, over HTTP, with TrainJobs that run while they are read.

A job goes one state further each time it is read. Faults are injected by request.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

POD = re.compile(r"^/api/v1/namespaces/team/pods/([^/]+)$")
LOG = re.compile(r"^/api/v1/namespaces/team/pods/([^/]+)/log$")
PODS = "/api/v1/namespaces/team/pods"
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"


@dataclass
class Fault:
    """The next `times` requests that match "METHOD /path" are answered by `status`, or by silence.

    Attributes:
        status: To answer; 0 drops the connection.
        heard: Whether the request has its effect all the same.
    """

    match: str
    status: int = 500
    times: int = 1
    heard: bool = False


@dataclass
class Kube:
    """The server's state, and what a test sets and reads.

    Attributes:
        script: States of a job, one for each time that it is read; it stays in the last.
        train: Called with a job that completes, beside the server; the job is Complete when it is done.
        broken: Changes the pods of a job that fails.
        requests: "METHOD /path" of all.
        created, deleted: The jobs, as they were sent; and names.
    """

    host: str = ""
    script: tuple[str, ...] = ("Pending", "Running", "Complete")
    train: Callable[[Json], None] = lambda job: None
    broken: Callable[[list[Json]], None] = lambda pods: None
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    pods: dict[str, Json] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    created: list[Json] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    training: dict[str, threading.Thread] = field(default_factory=dict)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        name = path.removeprefix(f"{JOBS}/")
        if path == JOBS and method == "POST":
            return self.create(body)
        if path.startswith(f"{JOBS}/") and name in self.jobs:
            return self.read(name) if method == "GET" else self.delete(name)
        if path == PODS:
            wanted = query["labelSelector"][0].split("=")
            found = [
                pod for pod in self.pods.values() if pod["metadata"]["labels"].get(wanted[0]) == wanted[1]
            ]
            return 200, {"items": found}
        if (match := LOG.match(path)) and match[1] in self.pods:
            if self.pods[match[1]]["status"]["phase"] == "Pending":
                return 400, refusal(400, "container is waiting to start")
            return 200, "".join(f"{line}\n" for line in self.logs.get(match[1], []))
        if (match := POD.match(path)) and match[1] in self.pods:
            return 200, self.pods[match[1]]
        return 404, refusal(404, f"{path} not found")

    def create(self, job: Json) -> tuple[int, Json]:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, refusal(409, f"{name} already exists")
        self.created.append(job)
        self.jobs[name] = {**job, "reads": 0}
        return 201, job

    def read(self, name: str) -> tuple[int, Json]:
        job = self.jobs[name]
        state = self.script[min(job["reads"], len(self.script) - 1)]
        job["reads"] += 1
        if "status" not in job:
            self.enter(job, state)
        return 200, job

    def enter(self, job: Json, state: str) -> None:
        name, spec = job["metadata"]["name"], job["spec"]["trainer"]
        pods = [self.pod(name, index) for index in range(spec["numNodes"])]
        for pod in pods:
            pod["status"]["phase"] = {"Complete": "Succeeded"}.get(state, state)
        if state == "Complete":
            training = self.training.setdefault(name, threading.Thread(target=self.train, args=(job,)))
            if training.ident is None:
                training.start()
            training.join(0.02)
            if training.is_alive():
                return
        if state == "Failed":
            self.broken(pods)
        if state in ("Complete", "Failed"):
            condition = {"type": state, "status": "True", "message": "jobset said so"}
            job["status"] = {"conditions": [condition]}

    def pod(self, job: str, index: int) -> Json:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": job,
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        metadata = {"name": f"{job}-node-0-{index}", "labels": labels}
        return self.pods.setdefault(metadata["name"], {"metadata": metadata, "status": {}})

    def delete(self, name: str) -> tuple[int, Json]:
        self.deleted.append(name)
        del self.jobs[name]
        self.training.pop(name, None)
        label = "jobset.sigs.k8s.io/jobset-name"
        self.pods = {k: pod for k, pod in self.pods.items() if pod["metadata"]["labels"].get(label) != name}
        return 200, {"status": "Success"}


def refusal(status: int, message: str) -> Json:
    return {"kind": "Status", "status": "Failure", "code": status, "message": message}


@contextlib.contextmanager
def serving() -> Iterator[Kube]:
    """A server on a free port of this machine."""
    state, lock = Kube(), threading.RLock()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length") or 0))
            url = urlsplit(self.path)
            request = f"{self.command} {url.path}"
            with lock:
                state.requests.append(request)
                fault = next((f for f in state.faults if f.times and re.search(f.match, request)), None)
                if fault:
                    fault.times -= 1
                if fault is None or fault.heard:
                    body = json.loads(text or "null")
                    status, content = state.answer(self.command, url.path, parse_qs(url.query), body)
            if fault and not fault.status:
                return self.connection.close()
            if fault:
                status, content = fault.status, refusal(fault.status, "injected")
            return self.reply(status, content)

        def reply(self, status: int, content: Any) -> None:
            plain = isinstance(content, str)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.end_headers()
            self.wfile.write((content if plain else json.dumps(content)).encode())

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        do_GET = do_POST = do_DELETE = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.host = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
