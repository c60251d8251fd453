"""MLflow's users `pipeline` and `reader`, made or given the password that their secret holds now.

By default everybody may read and whoever makes an experiment or a model manages it: `pipeline` registers
models, `reader` only looks (`graft roll`).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request


def main() -> None:
    for name in ("pipeline", "reader"):
        user = {"username": name, "password": os.environ[f"{name.upper()}_PASSWORD"]}
        status, text = ask("POST", "create", user)
        if status == 200:
            print(f"{name}: made")
            continue
        if "RESOURCE_ALREADY_EXISTS" in text:
            status, text = ask("PATCH", "update-password", user)
        if status != 200:
            sys.exit(f"error: {name}: MLflow answers {status}: {text}")
        print(f"{name}: there; its password is the secret's")


def ask(method: str, what: str, body: dict[str, str]) -> tuple[int, str]:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    pair = ":".join(os.environ[name] for name in names)
    headers = {
        "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
        "Content-Type": "application/json",
    }
    address = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users/{what}"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        sys.exit(f"error: {address} does not answer: {error}")


if __name__ == "__main__":
    main()
