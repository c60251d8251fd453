"""What a Kubeflow Pipelines server (REST, v2beta1) answers.

Paths, field names, enums and error bodies are those that kfp_server_api was generated from. Three things
are harder here than there, so that a slip cannot pass: a cron of five fields is refused (the real server
takes the first for seconds), and so are unknown fields of a body and parameters that the pipeline lacks.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api
import yaml

if TYPE_CHECKING:
    from tests.pipelines.kfp_server import Kfp

Json = dict[str, Any]
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}  # of gRPC, behind HTTP's
FILTERS = {"display_name", "name", "description", "created_at", "storage_state", "status", "state"}
STEPS = ("data-validation", "fine-tuning", "evaluation")


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error_body(status: int, message: str, upload: bool) -> Json:
    if upload:  # these two endpoints are no gRPC behind a gateway
        return {"error_message": message, "error_details": message}
    details = [{"@type": "type.googleapis.com/google.rpc.Status", "message": message}]
    return {"error": message, "code": CODES.get(status, 2), "message": message, "details": details}


def answer(state: Kfp, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Json]:
    address = urlsplit(request.path)
    query = {key: values[0] for key, values in parse_qs(address.query).items()}
    try:
        if state.token and request.headers.get("authorization") != f"Bearer {state.token}":
            raise Refusal(401, "Request header error: there is no user identity header.")
        for method, pattern, function in ROUTES:
            found = re.fullmatch("/apis/v2beta1/" + pattern, address.path)
            if found and method == request.command:
                content = _content(request, body) if method == "POST" else {}
                return 200, function(state, query, content, *(unquote(part) for part in found.groups()))
        raise Refusal(404, "Not Found")
    except Refusal as refusal:
        return refusal.status, error_body(refusal.status, str(refusal), "upload" in address.path)


def _content(request: BaseHTTPRequestHandler, body: bytes) -> Json:
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return json.loads(body) if body else {}
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
    documents = list(yaml.load_all(parts["uploadfile"].get_payload(decode=True), yaml.CSafeLoader))
    return {"spec": documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0]}}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked(body: Json, model: Any) -> Json:
    unknown = set(body) - set(model.attribute_map.values())
    if unknown:
        raise Refusal(400, f'proto: unknown field "{sorted(unknown)[0]}"')
    return body


def _one(things: dict[str, Json], kind: str, key: str) -> Json:
    if key not in things:
        raise Refusal(404, f"ResourceNotFoundError: {kind} {key} not found.")
    return things[key]


def _page(query: Json, things: dict[str, Json], name: str) -> Json:
    """As list endpoints do: predicates, all of which must hold, and pages of twenty unless asked."""
    rows = [thing for thing in things.values() if _matches(thing, query)]
    size = min(int(query.get("page_size") or 0) or 20, 200)
    start = int(query.get("page_token") or 0)
    more = {"next_page_token": str(start + size)} if start + size < len(rows) else {}
    return {name: rows[start : start + size], "total_size": len(rows), **more}


def _matches(thing: Json, query: Json) -> bool:
    if any(query.get(key) and thing.get(key) != query[key] for key in ("experiment_id", "namespace")):
        return False
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        key, value = predicate["key"], predicate.get("stringValue", predicate.get("string_value"))
        if key not in FILTERS:
            raise Refusal(400, f"Invalid input error: no such field {key}")
        has = str(thing.get(key, ""))
        if predicate["operation"] in (1, "EQUALS"):
            holds = has == value
        elif predicate["operation"] in (9, "IS_SUBSTRING"):
            holds = value in has
        else:
            raise Refusal(400, f"Invalid input error: operation {predicate['operation']}")
        if not holds:
            return False
    return True


def _unique(things: dict[str, Json], new: Json, *same: str) -> None:
    if any(all(thing.get(key) == new.get(key) for key in same) for thing in things.values()):
        raise Refusal(409, f"Already exist error: {new['display_name']}. Please specify a new name")


def _healthz(state: Kfp, query: Json, body: Json) -> Json:
    return {"multi_user": state.multi_user, "pipeline_store": "database"}


def _add(things: dict[str, Json], key: str, thing: Json) -> Json:
    things[thing[key]] = thing
    return thing


def _create_experiment(state: Kfp, query: Json, body: Json) -> Json:
    new = {"namespace": "", **_checked(body, kfp_server_api.V2beta1Experiment)}
    _unique(state.experiments, new, "display_name", "namespace")
    new |= {"experiment_id": str(uuid.uuid4()), "created_at": _now(), "storage_state": "AVAILABLE"}
    return _add(state.experiments, "experiment_id", new)


def _create_pipeline(state: Kfp, query: Json, body: Json) -> Json:
    new = {"namespace": "", **_checked(body, kfp_server_api.V2beta1Pipeline)}
    _unique(state.pipelines, new, "display_name", "namespace")
    return _add(
        state.pipelines, "pipeline_id", new | {"pipeline_id": str(uuid.uuid4()), "created_at": _now()}
    )


def _upload_pipeline(state: Kfp, query: Json, body: Json) -> Json:
    new = _create_pipeline(
        state, {}, {"display_name": query["name"], "namespace": query.get("namespace", "")}
    )
    _upload_version(state, {"name": query["name"], "pipelineid": new["pipeline_id"]}, body)
    return new


def _upload_version(state: Kfp, query: Json, body: Json) -> Json:
    _one(state.pipelines, "Pipeline", query["pipelineid"])
    if "pipelineInfo" not in body["spec"].get("pipeline_spec", body["spec"]):
        raise Refusal(400, "Failed to create a pipeline version: InvalidInputError: unknown template format")
    new = {"display_name": query["name"], "name": query["name"], "pipeline_id": query["pipelineid"]}
    _unique(state.versions, new, "display_name", "pipeline_id")
    new |= {"pipeline_version_id": str(uuid.uuid4()), "created_at": _now(), "pipeline_spec": body["spec"]}
    return _add(state.versions, "pipeline_version_id", new)


def _list_versions(state: Kfp, query: Json, body: Json, pipeline: str) -> Json:
    _one(state.pipelines, "Pipeline", pipeline)
    mine = {key: one for key, one in state.versions.items() if one["pipeline_id"] == pipeline}
    return _page(query, mine, "pipeline_versions")


def _startable(state: Kfp, body: Json) -> None:
    if not body.get("display_name"):
        raise Refusal(400, "Invalid input error: The name is empty. Please specify a valid name")
    _one(state.experiments, "Experiment", body.get("experiment_id", ""))
    reference = body.get("pipeline_version_reference") or {}
    version = _one(state.versions, "PipelineVersion", reference.get("pipeline_version_id", ""))
    needed = version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"])["root"]
    inputs = needed.get("inputDefinitions", {}).get("parameters", {})
    given = (body.get("runtime_config") or {}).get("parameters") or {}
    for name in given:
        if name not in inputs:
            raise Refusal(400, f"Invalid input error: parameter {name} is not an input of the pipeline")
    for name, about in inputs.items():
        if name not in given and "defaultValue" not in about and not about.get("isOptional"):
            raise Refusal(400, f"Invalid input error: parameter {name} is missing")


def _create_run(state: Kfp, query: Json, body: Json) -> Json:
    _startable(state, _checked(body, kfp_server_api.V2beta1Run))
    new = {**body, "run_id": str(uuid.uuid4()), "created_at": _now(), "state": state.script[0], "asked": 0}
    return _shown(_add(state.runs, "run_id", new))


def _get_run(state: Kfp, query: Json, body: Json, key: str) -> Json:
    run = _one(state.runs, "Run", key)
    run["state"] = state.script[min(run["asked"], len(state.script) - 1)]
    run["asked"] += 1
    return _shown(run)


def _list_runs(state: Kfp, query: Json, body: Json) -> Json:
    page = _lists("runs", "runs")(state, query, body)
    return {**page, "runs": [_shown(run) for run in page["runs"]]}


def _shown(run: Json) -> Json:
    """The run with its tasks: one more has ended at each look, and the last one fails with it."""
    if run["state"] == "PENDING":
        return {key: value for key, value in run.items() if key != "asked"}
    ended = len(STEPS) if run["state"] in ("SUCCEEDED", "FAILED") else run["asked"] - 1
    tasks = []
    for number, name in enumerate(("root", "root-driver", *STEPS)):
        failed = run["state"] == "FAILED" and name == STEPS[-1]
        running = "CANCELED" if run["state"] == "CANCELED" else "RUNNING"
        state = "FAILED" if failed else "SUCCEEDED" if number - 2 < ended else running
        task = {"task_id": f"{run['run_id']}-{number}", "display_name": name, "state": state}
        task |= {"start_time": "2026-01-05T03:00:00Z", "end_time": "2026-01-05T03:01:30Z"}
        tasks.append(task | ({"error": {"code": 13, "message": "exit status 1"}} if failed else {}))
    shown = {key: value for key, value in run.items() if key != "asked"}
    return shown | {"run_details": {"task_details": tasks}}


def _create_recurring(state: Kfp, query: Json, body: Json) -> Json:
    _startable(state, _checked(body, kfp_server_api.V2beta1RecurringRun))
    if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
        raise Refusal(400, "Invalid input error: The max concurrency is out of range. Support 1-10.")
    trigger = body.get("trigger") or {}
    cron = (trigger.get("cron_schedule") or {}).get("cron")
    if cron is not None and (count := len(cron.split())) != 6:
        raise Refusal(400, f"Invalid input error: Expected 5 to 6 fields, found {count}: {cron}")
    interval = (trigger.get("periodic_schedule") or {}).get("interval_second")
    if cron is None and int(interval or 0) < 1:
        raise Refusal(400, "Invalid input error: Found invalid period schedule interval")
    new = json.loads(json.dumps(body)) | {"recurring_run_id": str(uuid.uuid4()), "created_at": _now()}
    new["max_concurrency"] = str(body["max_concurrency"])  # int64 is a string in protobuf's JSON
    if interval:
        new["trigger"]["periodic_schedule"]["interval_second"] = str(interval)
    new["status"] = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
    _add(state.recurring, "recurring_run_id", new)
    state.remember()
    return new


def _switch(mode: str) -> Callable[..., Json]:
    def switch(state: Kfp, query: Json, body: Json, key: str) -> Json:
        run = _one(state.recurring, "Job", key)
        run |= {"mode": mode, "status": f"{mode}D"}
        state.remember()
        return {}

    return switch


def _delete_recurring(state: Kfp, query: Json, body: Json, key: str) -> Json:
    _one(state.recurring, "Job", key)
    state.recurring[key] |= {"deleted_with": query.get("propagation_policy")}
    state.remember()
    del state.recurring[key]
    state.remember()
    return {}


def _lists(table: str, name: str) -> Callable[..., Json]:
    def lists(state: Kfp, query: Json, body: Json) -> Json:
        if state.multi_user and table != "pipelines" and not {"namespace", "experiment_id"} & set(query):
            raise Refusal(400, "Invalid input error: a namespace is needed in multi-user mode")
        return _page(query, getattr(state, table), name)

    return lists


def _gets(table: str, kind: str) -> Callable[..., Json]:
    return lambda state, query, body, key: _one(getattr(state, table), kind, key)


ROUTES: tuple[tuple[str, str, Callable[..., Json]], ...] = (
    ("GET", "healthz", _healthz),
    ("POST", "experiments", _create_experiment),
    ("GET", "experiments", _lists("experiments", "experiments")),
    ("GET", "experiments/([^/:]+)", _gets("experiments", "Experiment")),
    ("POST", "pipelines", _create_pipeline),
    ("GET", "pipelines", _lists("pipelines", "pipelines")),
    ("POST", "pipelines/upload", _upload_pipeline),
    ("POST", "pipelines/upload_version", _upload_version),
    ("GET", "pipelines/([^/:]+)", _gets("pipelines", "Pipeline")),
    ("GET", "pipelines/([^/:]+)/versions", _list_versions),
    ("POST", "runs", _create_run),
    ("GET", "runs", _list_runs),
    ("GET", "runs/([^/:]+)", _get_run),
    ("POST", "recurringruns", _create_recurring),
    ("GET", "recurringruns", _lists("recurring", "recurringRuns")),
    ("GET", "recurringruns/([^/:]+)", _gets("recurring", "Job")),
    ("POST", "recurringruns/([^/:]+):enable", _switch("ENABLE")),
    ("POST", "recurringruns/([^/:]+):disable", _switch("DISABLE")),
    ("DELETE", "recurringruns/([^/:]+)", _delete_recurring),
)
