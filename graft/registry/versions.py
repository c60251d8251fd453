"""The versions of a registered model: finding one, and listing them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Registry
from graft.registry.tracking import answering, reach, shown, tracking_uri, using

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/:@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@contextmanager
def connected(params: Registry, what: str) -> Iterator[MlflowClient]:
    """A client of the registry; inside, MLflow's module-level functions talk to it too.

    Args:
        what: Is done inside, for messages: "promote the model".

    Raises:
        GraftError: MLflow cannot be used, or stops answering.
    """
    uri = tracking_uri(params)
    client = reach(uri)
    with using(uri), answering(uri, what):
        yield client


def registered_model(client: MlflowClient, name: str) -> RegisteredModel:
    """The registered model of this name, with its aliases and tags.

    Raises:
        GraftError: there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = sorted(model.name for model in client.search_registered_models(max_results=100))
        there = f"there are: {', '.join(known)}" if known else "nothing is registered there yet"
        raise GraftError(
            f"there is no registered model {name!r} in MLflow at {shown(client.tracking_uri)}",
            f"give --name and --tracking-uri, or run `graft retrain` first; {there}",
        ) from error


def find(client: MlflowClient, reference: str) -> ModelVersion:
    """The version that NAME@ALIAS, NAME/VERSION or the same behind `models:/` names.

    Raises:
        GraftError: the text is of another form, or there is no such model, alias or version.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise GraftError(
            f"{reference!r} names no version", "write NAME@ALIAS, NAME/VERSION or models:/NAME/VERSION"
        )
    name, alias, number = parts["name"], parts["alias"], parts["version"]
    if alias is None:
        return version(client, name, number)
    aliases = registered_model(client, name).aliases
    if alias not in aliases:
        there = ", ".join(sorted(aliases)) or "none"
        raise GraftError(
            f"{name} has no alias {alias!r}", f"`graft models --name {name}` lists them; there are: {there}"
        )
    return client.get_model_version(name, str(aliases[alias]))


def version(client: MlflowClient, name: str, number: str) -> ModelVersion:
    """One version by its number.

    Raises:
        GraftError: there is none.
    """
    from mlflow.exceptions import MlflowException

    registered_model(client, name)
    try:
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        known = ", ".join(str(each.version) for each in all_versions(client, name)) or "none"
        raise GraftError(
            f"{name} has no version {number!r}",
            f"`graft models --name {name}` lists them; there are: {known}",
        ) from error


def all_versions(client: MlflowClient, name: str | None = None) -> list[ModelVersion]:
    """Every version of one model, or of all; the newest first."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(page_token=token)
        found += [each for each in page if name in (None, each.name)]
        if not (token := page.token):
            return sorted(found, key=lambda each: (each.name, -int(each.version)))


def aliases_of(model: RegisteredModel, number: str) -> list[str]:
    """The aliases that point to a version."""
    return sorted(alias for alias, to in model.aliases.items() if str(to) == str(number))


def list_versions(params: Registry) -> list[dict[str, Any]]:
    """The versions of `params.model_name`, newest first.

    Returns:
        Each as version, aliases, method, accuracy (None where unknown), data_md5, created (ISO 8601),
        age_seconds, run_id and origin (of a copied one: its MLflow and version there).

    Raises:
        GraftError: MLflow cannot be used, or nothing is registered under that name.
    """
    with connected(params, "list the versions") as client:
        model = registered_model(client, params.model_name)
        return [_row(model, each) for each in all_versions(client, params.model_name)]


def _row(model: RegisteredModel, one: ModelVersion) -> dict[str, Any]:
    tags = one.tags
    created = datetime.fromtimestamp(one.creation_timestamp / 1000, timezone.utc)
    accuracy = tags.get("accuracy")
    origin = f"{tags['origin.uri']} version {tags['origin.version']}" if "origin.uri" in tags else None
    return {
        "version": str(one.version),
        "aliases": aliases_of(model, one.version),
        "method": tags.get("method"),
        "accuracy": float(accuracy) if accuracy else None,
        "data_md5": tags.get("data_md5"),
        "created": created.isoformat(timespec="seconds"),
        "age_seconds": round((datetime.now(timezone.utc) - created).total_seconds()),
        "run_id": one.run_id,
        "origin": origin,
    }
