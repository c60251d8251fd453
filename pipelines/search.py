"""search.yaml: which keys of params.yaml to search, over which values, and for which score.

Nothing here knows who does the searching.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import Field

from graft.errors import GraftError
from graft.params import Count, Params, Section, Seed, parse
from pipelines.chain import sections_of, steps_to

# These change what the score is measured on, or nothing that it measures.
REFUSED = {
    "data": "it changes the images that the score is measured on",
    "fine_tuning.baseline": "the baseline is no candidate, and trials leave it out",
    "fine_tuning.baseline_epochs": "the baseline is no candidate, and trials leave it out",
}


class Settings(Section):
    """search.yaml but for the ranges."""

    objective: Literal["probe", "fine_tuned", "adapted"] = "fine_tuned"
    trials: Count = 20
    seed: Seed = 0
    prune: bool = True  # stop a trial that is worse than the median of the others
    prune_after_trials: Count = 4  # that were finished
    prune_after_epochs: Annotated[int, Field(ge=0)] = 2
    search: dict[str, dict[str, Any]]


class Span(Section):
    """The values of one key: a range or a list."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[Any] | None = None


@dataclass(frozen=True)
class Dimension:
    """One key of params.yaml and its values.

    Attributes:
        key: With its section, such as "fine_tuning.learning_rate".
        kind: "int" and "float" lie between `low` and `high`, both included; "choice" is one of `choices`.
        log: Whether the range is searched by orders of magnitude.
    """

    key: str
    kind: Literal["int", "float", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the dimension's."""
        if self.kind == "choice":
            return value in self.choices
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def stored(self, value: Any) -> Any:
        """A choice as databases keep it: a list or a mapping as JSON."""
        return json.dumps(value) if isinstance(value, (list, dict)) else value

    def value(self, stored: Any) -> Any:
        """What `stored` made of a choice, as it was."""
        return next((choice for choice in self.choices if self.stored(choice) == stored), stored)


@dataclass(frozen=True)
class Search:
    """A checked search.yaml."""

    settings: Settings
    dimensions: tuple[Dimension, ...]

    @property
    def sections(self) -> set[str]:
        """The sections of params.yaml that differ between trials."""
        return {dimension.key.partition(".")[0] for dimension in self.dimensions}


def read_search(path: str | Path, params: Params) -> Search:
    """Read search.yaml and check it against the parameters it starts from.

    Raises:
        GraftError: the file is missing or not YAML, a key is unknown or does not change the score, or a
            range holds a value that params.yaml would refuse; each named with its fix.
    """
    where = str(path)
    settings = parse(Settings, _read_yaml(Path(path)), where)
    if not settings.search:
        raise GraftError(f"{where}: search names no key", "e.g. fine_tuning.batch_size: {choices: [32, 64]}")
    dimensions = []
    for key, values in settings.search.items():
        kind = _kind(key, settings.objective, where)
        dimension = _dimension(key, kind, parse(Span, values, f"{where}: {key}"), where)
        for value in dimension.choices or (dimension.low, dimension.high):
            with_values(params, {key: value}, f"{where}: search")
        dimensions.append(dimension)
    return Search(settings, tuple(dimensions))


def with_values(params: Params, values: Mapping[str, Any], where: str = "search") -> Params:
    """The parameters with other values at some keys ("section.key").

    Raises:
        GraftError: a value is out of its range in params.yaml.
    """
    tree = params.model_dump()
    for key, value in values.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return parse(Params, tree, where)


def value_at(params: Params, key: str) -> Any:
    """The value at "section.key"; a tuple is a list, as in YAML."""
    value: Any = params
    for part in key.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise GraftError(f"there is no {path}", "start from a copy of recipes/search/fine_tuning.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise GraftError(f"{path} is not valid YAML: {error}", "correct that line") from error
    if not isinstance(content, dict) or "search" not in content:
        raise GraftError(
            f"{path} has no section `search`", "start from a copy of recipes/search/fine_tuning.yaml"
        )
    return content


def _leaves(model: type[Section], prefix: str = "") -> dict[str, Any]:
    """Every key of params.yaml with its type."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= _leaves(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = kind
    return found


def _kind(key: str, objective: str, where: str) -> Any:
    """The type of a key that the objective depends on."""
    known = _leaves(Params)
    matters = sections_of(steps_to(objective))
    section = key.partition(".")[0]
    if key not in known:
        useful = [one for one in known if one.partition(".")[0] in matters and not _refused(one)]
        nearest = difflib.get_close_matches(key, useful, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        same = [one for one in useful if one.startswith(f"{section}.")]
        raise GraftError(f"{where}: unknown key {key!r}", f"{hint}valid keys: {', '.join(same or useful)}")
    reason = _refused(key) or ("" if section in matters else f"it does not change {objective}")
    if reason:
        valid = ", ".join(name for name in matters if name not in REFUSED)
        raise GraftError(f"{where}: {key} cannot be searched: {reason}", f"search keys of: {valid}")
    return known[key]


def _refused(key: str) -> str:
    return REFUSED.get(key) or REFUSED.get(key.partition(".")[0], "")


def _dimension(key: str, kind: Any, span: Span, where: str) -> Dimension:
    at = f"{where}: {key}"
    if span.choices is not None:
        if span.low is not None or span.high is not None or span.log:
            raise GraftError(f"{at} has both choices and a range", "keep one of them")
        if len(span.choices) < 2 or any(span.choices.count(one) > 1 for one in span.choices):
            raise GraftError(f"{at}: choices = {span.choices}", "give two different values or more")
        return Dimension(key, "choice", choices=tuple(span.choices))
    number = _number(kind)
    if number is None:
        raise GraftError(f"{at} is no number, so it has no range", "give `choices: [...]`")
    if span.low is None or span.high is None or span.low >= span.high:
        raise GraftError(f"{at}: low = {span.low}, high = {span.high}", "give low and high, low below high")
    if span.log and span.low <= 0:
        raise GraftError(f"{at}: a range with log begins at {span.low}", "give a low above 0")
    if number is float:
        return Dimension(key, "float", float(span.low), float(span.high), span.log)
    if span.low != int(span.low) or span.high != int(span.high):
        raise GraftError(f"{at}: {key} is a whole number, its range {span.low} to {span.high}", "round both")
    return Dimension(key, "int", int(span.low), int(span.high), span.log)


def _number(kind: Any) -> type | None:
    """int or float where a key's type is that, with or without limits or None beside it."""
    if get_origin(kind) in (Union, types.UnionType, Annotated):
        return next((found for part in get_args(kind) if (found := _number(part))), None)
    return kind if kind in (int, float) else None
