"""The software bill of materials: every package beside this Python, as CycloneDX JSON."""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

ITSELF = "graft"


@cache
def bill_of_materials() -> str:
    """CycloneDX 1.6 of the environment that runs, made once per process; needs no network.

    Of equal environments the bills are equal: nothing in them tells when they were made.

    Raises:
        RuntimeError: it cannot be made; the text says why.
    """
    try:
        from cyclonedx.model.bom import Bom
        from cyclonedx.output.json import JsonV1Dot6

        # `metadata` is read and parsed at every look, and by `name` and `version` as well: once is enough.
        found = [(each, each.metadata) for each in distributions()]
        installed = {_normal(said["Name"]): (each, said) for each, said in found}
        parts = {name: _component(said) for name, (_, said) in sorted(installed.items())}
        bom = Bom(components=[part for name, part in parts.items() if name != ITSELF])
        bom.metadata.component = parts.get(ITSELF)
        for name, part in parts.items():
            bom.register_dependency(
                part, [parts[each] for each in _needs(installed[name][0]) if each in parts]
            )
        text = JsonV1Dot6(bom).output_as_string()
    except Exception as error:  # metadata of packages is wrong in many ways
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return json.dumps(_without_time(json.loads(text)), indent=2, sort_keys=True)


def write_bill(path: Path) -> None:
    """Write the bill; where it cannot be made, say so and go on: a model is not lost over it."""
    try:
        text = bill_of_materials()
    except RuntimeError as error:
        print(f"no software bill of materials: {error}", file=sys.stderr)
        return
    path.write_text(text, encoding="utf-8")


def _component(said: PackageMetadata) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    name, version, licence = _normal(said["Name"]), said["Version"], _licence(said)
    return Component(
        type=ComponentType.APPLICATION if name == ITSELF else ComponentType.LIBRARY,
        name=said["Name"],
        version=version,
        description=_entry(said, "Summary"),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        purl=PackageURL("pypi", name=name, version=version),
        bom_ref=f"{name}=={version}",
    )


def _licence(said: PackageMetadata) -> str | None:
    """An expression of SPDX where the package gives one, else its licence's name."""
    words = _entry(said, "License-Expression") or _entry(said, "License") or ""
    if words and len(words) < 100:  # some give the whole text
        return words
    classes: list[str] = said.get_all("Classifier") or []
    return next((each.split(" :: ")[-1] for each in classes if each.startswith("License ::")), None)


def _entry(said: PackageMetadata, key: str) -> str | None:
    return said[key] if key in said else None  # noqa: SIM401 - it promises no `get`


def _needs(package: Distribution) -> set[str]:
    """What a package requires on this machine, without extras."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in package.requires or ()]
    return {_normal(each.name) for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})}


def _normal(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _without_time(bill: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in bill["metadata"].items() if key != "timestamp"}
    return {**{key: value for key, value in bill.items() if key != "serialNumber"}, "metadata": metadata}


if __name__ == "__main__":
    print(bill_of_materials())
