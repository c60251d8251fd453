"""schedules.yaml: when to retrain, as code.

    project: digits             # marks our schedules on a server that others use too
    schedules:
      - name: weekly
        cron: "0 3 * * 1"
        data: s3://bucket/digits

Kubeflow's recurring runs know neither a time zone of their own (all of them follow the scheduler's, UTC
unless CRON_SCHEDULE_TIMEZONE says otherwise) nor a condition: they start a run whenever the time comes, and
the DAG has no branches. What they cannot express, a CronJob of Kubernetes starts, with `graft submit`:
schedules in another time zone, and those with `only_when`, which is decided before a run exists.
"""

from __future__ import annotations

from collections import Counter
from datetime import timezone
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, AwareDatetime, Field

from graft.errors import GraftError
from graft.params import Count, Section, parse
from pipelines.cron import five_fields, six_fields

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,23}[a-z0-9])?$")]  # two of them name a CronJob


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("no such time zone; write it as in Europe/Berlin") from error
    return name


Zone = Annotated[str, AfterValidator(_known_zone)]


class Schedule(Section):
    """One schedule. Either `cron` or `interval_seconds`."""

    name: Name
    cron: Annotated[str, AfterValidator(six_fields)] | None = None  # five or six fields; kept as six
    interval_seconds: Count | None = None
    time_zone: Zone | None = None  # of cron; else the server's
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    catch_up: bool = False  # run once for each time that was missed
    max_concurrency: Annotated[int, Field(ge=1, le=10)] = 1
    enabled: bool = True
    params: tuple[str, ...] = ("params.yaml",)  # and overlays, from where the command runs
    overrides: tuple[str, ...] = ()  # section.key=value
    experiment: str = "graft"
    data: str  # a folder in the image or on a volume, or an address
    only_when: Literal["data_changed", "drifted"] | None = None
    monitor: str = "/monitor/monitor.json"  # of `graft monitor`, for only_when: drifted


class CronJobs(Section):
    """What the CronJobs run in, for the schedules that Kubeflow cannot keep."""

    image: str
    service_account: str = "default"
    environment: tuple[str, ...] = ()  # secrets: MLFLOW_TRACKING_URI, credentials of S3
    claim: str | None = None  # the volume that `graft monitor` writes to, mounted at /monitor


class Schedules(Section):
    """The whole of schedules.yaml."""

    project: Name
    server_time_zone: Zone = "UTC"  # what CRON_SCHEDULE_TIMEZONE of Kubeflow's scheduler is set to
    cron_jobs: CronJobs | None = None
    schedules: tuple[Schedule, ...] = ()

    def by_kubernetes(self, schedule: Schedule) -> str | None:
        """Why a schedule needs a CronJob; None where Kubeflow can keep it."""
        if schedule.only_when:
            return f"only_when: {schedule.only_when} is decided before a run exists"
        if schedule.time_zone not in (None, self.server_time_zone):
            return f"Kubeflow's scheduler is in {self.server_time_zone}, not in {schedule.time_zone}"
        return None

    def recurring(self) -> list[Schedule]:
        """The schedules that Kubeflow keeps."""
        return [each for each in self.schedules if self.by_kubernetes(each) is None]

    def cron_jobbed(self) -> list[Schedule]:
        """The schedules that Kubernetes keeps."""
        return [each for each in self.schedules if self.by_kubernetes(each) is not None]


def read_schedules(path: str | Path) -> Schedules:
    """Read and check schedules.yaml.

    Raises:
        GraftError: it is missing or not YAML, a key is unknown, or a value cannot be; each with its fix.
    """
    file = parse(Schedules, _read_yaml(Path(path)), str(path))
    twice = [name for name, count in Counter(each.name for each in file.schedules).items() if count > 1]
    if twice:
        raise GraftError(f"{path}: two schedules are called {twice[0]!r}", "give each its own name")
    for schedule in file.schedules:
        _check(file, schedule, f"{path}: {schedule.name}")
    return file


def instant(moment: AwareDatetime | None) -> str | None:
    """A time as the server writes it, in UTC."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _check(file: Schedules, schedule: Schedule, where: str) -> None:
    """What one key alone does not show.

    Raises:
        GraftError: keys that contradict each other.
    """
    if (schedule.cron is None) == (schedule.interval_seconds is None):
        raise GraftError(f"{where}: needs cron or interval_seconds, one of them", 'e.g. cron: "0 3 * * 1"')
    if schedule.start and schedule.end and schedule.end <= schedule.start:
        raise GraftError(
            f"{where}: end = {schedule.end} is not after start = {schedule.start}", "correct one"
        )
    if schedule.cron is None and schedule.time_zone:
        raise GraftError(f"{where}: time_zone says nothing about interval_seconds", "leave one of them out")
    reason = file.by_kubernetes(schedule)
    if reason is None:
        return
    if file.cron_jobs is None:
        raise GraftError(
            f"{where}: needs a CronJob: {reason}", "add cron_jobs: with image:, or leave that out"
        )
    refused = [key for key in ("interval_seconds", "start", "end") if getattr(schedule, key) is not None]
    if refused or schedule.catch_up:
        key = (refused or ["catch_up"])[0]
        raise GraftError(f"{where}: {key} is unknown to CronJobs, and it needs one: {reason}", f"drop {key}")
    try:
        five_fields(str(schedule.cron))
    except ValueError as error:
        raise GraftError(
            f"{where}: cron: {error}; it needs a CronJob: {reason}", "write five fields"
        ) from None
    if schedule.only_when == "drifted" and file.cron_jobs.claim is None:
        raise GraftError(
            f"{where}: drifted needs monitor.json", "add cron_jobs.claim, where monitor writes it"
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise GraftError(f"there is no file {path}", "give --file; recipes/schedules/ has one to start from")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise GraftError(f"{path} is not valid YAML: {error}", "correct that line") from error
    if not isinstance(content, dict):
        raise GraftError(f"{path} holds no keys", "it needs project: and schedules:")
    return content
