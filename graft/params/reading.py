"""params.yaml and its overlays, read and refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from graft.errors import GraftError
from graft.params.base import Section
from graft.params.sections import Params

S = TypeVar("S", bound=Section)


def parse(model: type[S], values: Mapping[str, Any] | None, where: str) -> S:
    """Validate a section.

    Args:
        model: The section's model, such as `FineTuning`.
        values: Its keys and values; absent keys take their defaults.
        where: Named in errors, such as "params.yaml: fine_tuning".

    Raises:
        GraftError: a key is unknown or a value is out of range, each named with its fix.
    """
    try:
        return model.model_validate(dict(values or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise _named(model, first["loc"], first, where) from None


def read_params(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Params:
    """Read params.yaml and overlays, later ones winning key by key, then `section.key=value`.

    Raises:
        GraftError: a file is missing or is not YAML, or what they say together is not valid.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = _overlay(merged, _read_yaml(Path(file)))
    for override in overrides:
        merged = _overlay(merged, _parse_override(override))
    return parse(Params, merged, " + ".join(str(file) for file in files) or "params")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise GraftError(
            f"the parameter file {path} does not exist", "give the path of a params.yaml or a recipe"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise GraftError(f"{path} is not valid YAML: {error}", "correct that line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise GraftError(f"{path} holds a {type(content).__name__}, not sections", "write `section:` lines")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise GraftError(
            f"--set {text!r} is not of the form section.key=value", "e.g. --set fine_tuning.epochs=5"
        )
    tree: Any = yaml.safe_load(value)
    for key in reversed(keys):
        tree = {key: tree}
    return tree


def _overlay(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _named(model: type[Section], location: tuple[Any, ...], first: Any, where: str) -> GraftError:
    path = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = list(_model_at(model, location[:-1]).model_fields)
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        fix = f"did you mean {nearest[0]!r}? " if nearest else ""
        return GraftError(f"{where}: unknown key {path!r}", f"{fix}valid keys: {', '.join(sorted(known))}")
    if first["type"] == "missing":
        return GraftError(f"{where}: {path} is missing", f"add {path}")
    return GraftError(f"{where}: {path} = {first['input']!r}: {first['msg']}", f"correct {path}")


def _model_at(model: type[Section], location: tuple[Any, ...]) -> type[Section]:
    for key in location:
        if not isinstance(key, int):  # of a list, the model of whose entries is found already
            annotation = model.model_fields[key].annotation
            candidates = (annotation, *get_args(annotation))
            model = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return model
