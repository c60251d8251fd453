"""Schedules that several tests want."""

from __future__ import annotations

from pathlib import Path

from pipelines.kubeflow import version_name
from pipelines.schedule_plans import Wanted
from pipelines.schedules import Schedule

DATA = "dvc+s3://bucket/digits?md5=0123456789abcdef0123456789abcdef.dir"
IMAGE = f"registry.example.com/graft-python@sha256:{'1' * 64}"


def wanted_of(name: str, *, epochs: int = 1, enabled: bool = True, package: Path = Path("p.yaml")) -> Wanted:
    one = Schedule(name=name, cron="0 3 * * 1", data=DATA, enabled=enabled)
    parameters = {"folder": DATA, "fine_tuning": {"epochs": epochs}, "lineage": {"git_commit": "c0ffee"}}
    pipeline = version_name(package) if package.exists() else "sha256-1"
    return Wanted("digits", one, parameters, pipeline, package)
