"""What the pods of a TrainJob say and why they do not run.

Logs are asked for again and again rather than followed: a broken connection then loses nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from signal import Signals

from graft.launching.kubernetes import Cluster, Json
from graft.launching.manifest import NODE

OVERLAP = 10  # seconds asked for twice; lines that were shown are left out by their time
LAST_LINES = 60
INDEX = "batch.kubernetes.io/job-completion-index"


class LogReader:
    """Shows what is new in the log of the first node, whose first process speaks for all."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.shown: dict[str, str] = {}
        self.asked: dict[str, float] = {}

    def show(self, pods: Sequence[Json]) -> None:
        """Print new lines of the first node; after a restart it is another pod."""
        for pod in pods:
            if pod["metadata"]["labels"].get(INDEX, "0") == "0":
                self._show(pod["metadata"]["name"])

    def last_words(self, pods: Sequence[Json]) -> list[str]:
        """The last lines of every node that failed; those of the first were shown, the others are now."""
        words: list[str] = []
        for pod in pods:
            if pod["status"].get("phase") == "Failed":
                name = pod["metadata"]["name"]
                said = [line.partition(" ")[2] for line in self.cluster.log(name, NODE, None)[-LAST_LINES:]]
                words += said
                if pod["metadata"]["labels"].get(INDEX, "0") != "0":
                    sys.stderr.writelines(f"{name}: {line}\n" for line in said)
        return words

    def _show(self, name: str) -> None:
        before, now = self.asked.get(name), time.monotonic()
        lines = self.cluster.log(name, NODE, None if before is None else int(now - before) + OVERLAP)
        self.asked[name] = now
        for line in lines:
            stamp, _, text = line.partition(" ")
            if (moment := _sortable(stamp)) > self.shown.get(name, ""):
                self.shown[name] = moment
                sys.stderr.write(text + "\n")
        sys.stderr.flush()


def why_waiting(pods: Sequence[Json]) -> str:
    """What keeps pods from running, such as an image that cannot be had; empty where nothing does."""
    reasons = []
    for pod in pods:
        if pod["status"].get("phase") != "Pending":
            continue
        states = [one.get("state", {}) for one in pod["status"].get("containerStatuses", [])]
        said = [state["waiting"].get("reason", "") for state in states if "waiting" in state]
        for one in pod["status"].get("conditions", []):
            if one["type"] == "PodScheduled" and one["status"] == "False":
                said.append(one.get("message") or one.get("reason", ""))
        reasons.append(f"{pod['metadata']['name']}: {', '.join(said) or 'not scheduled yet'}")
    return "; ".join(reasons)


def why_failed(pods: Sequence[Json]) -> str | None:
    """Which pod was killed or evicted, where one was; an exit code alone says nothing."""
    for pod in pods:
        name, status = pod["metadata"]["name"], pod["status"]
        if status.get("reason"):  # of the whole pod, such as Evicted
            return f"the pod {name} failed: {status['reason']}: {status.get('message', '')}"
        for one in status.get("containerStatuses", []):
            ended = one.get("state", {}).get("terminated") or one.get("lastState", {}).get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                return f"the pod {name} took more memory than its limit (OOMKilled)"
            if ended.get("exitCode") == 128 + Signals.SIGKILL:
                return f"the pod {name} was killed by SIGKILL"
    return None


def _sortable(stamp: str) -> str:
    """A time of a log, in UTC, with all digits of its nanoseconds: "12:00:00.5Z" is before "12:00:00.51Z"."""
    fraction = "".join(digit for digit in stamp[20:].rstrip("Z").split("+")[0] if digit.isdigit())
    return stamp[:19] + fraction.ljust(9, "0")
