"""Whether there is a reason to retrain, decided before a run exists.

A run cannot decide it: the DAG has no branches, since Kubeflow's local runner skips conditions in silence,
and a step that gave up would be a failed run. Kubeflow's recurring runs cannot either: they start a run
whenever the time comes. So whoever starts runs asks first: `graft submit --only-when`, which a CronJob calls.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from graft.errors import GraftError
from graft.files import folder_md5, read_json
from graft.params import Registry
from graft.registry.tracking import is_new, tracking_uri


def why_not_data(data: str, registry: Registry) -> str | None:
    """Why the data is no reason to retrain: a version of the model has seen it. None where it is one.

    Args:
        data: As `pipelines.submitting.data_address` returns it.

    Raises:
        GraftError: the data's md5 cannot be known without fetching it, or MLflow cannot be used.
    """
    md5 = _md5(data)
    seen = [number for number, seen_md5, _ in _versions(registry) if seen_md5 == md5]
    return f"version {seen[0]} of {registry.model_name} has seen this data ({md5})" if seen else None


def why_not_drifted(monitor: Path, registry: Registry) -> str | None:
    """Why monitoring is no reason to retrain: it found nothing, or was answered. None where it is one.

    Args:
        monitor: monitor.json of `graft monitor`; its time is that of its last change.

    Raises:
        GraftError: the file is missing or something else, or MLflow cannot be used.
    """
    try:
        status = read_json(monitor)["status"]
        found = datetime.fromtimestamp(os.stat(monitor).st_mtime, timezone.utc)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(
            f"--monitor: {monitor} is no monitor.json ({type(error).__name__})",
            "give the one that `graft monitor NEW_IMAGES` writes",
        ) from error
    if status == "fine":
        return f"{monitor} says that nothing has changed"
    for number, _, created in _versions(registry):
        if created > found:
            return f"version {number} of {registry.model_name} is newer than {monitor}; monitor again"
    return None


def _md5(data: str) -> str:
    from graft.storage.addresses import is_address, parse

    if not is_address(data):
        if not Path(data).is_dir():
            raise GraftError(
                f"--data: there is no folder {data} here to compare", "mount it, or give an address"
            )
        return folder_md5(data)
    md5 = parse(data).md5
    if md5 is None:
        raise GraftError(
            f"--data: whether {data} has changed cannot be known without fetching it all",
            "give a version: a .dvc file, git+URL@REVISION, or dvc+s3://bucket/prefix?md5=....dir",
        )
    return md5


def _versions(registry: Registry) -> list[tuple[str, str | None, datetime]]:
    """Number, md5 of the data and time of every version, newest first; none where there is no registry."""
    from graft.registry.versions import all_versions, connected

    if is_new(tracking_uri(registry)):
        return []
    with connected(registry, "look at the versions") as client:
        return [
            (
                str(each.version),
                each.tags.get("data_md5"),
                datetime.fromtimestamp(each.creation_timestamp / 1000, timezone.utc),
            )
            for each in all_versions(client, registry.model_name)
        ]
