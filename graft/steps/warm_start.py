"""Where fine-tuning begins: at the probe, or at the champion of the last retraining."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.files import whole_folder
from graft.params import FineTuning, Registry, parse
from graft.progress import say

NETWORK = ("name", "structure", "preprocessing")  # of a backbone, what its weights may not change


def settings_of(fine_tuning: Mapping[str, Any], registry: Mapping[str, Any]) -> dict[str, Any]:
    """What the step's outputs depend on: the registry only where it begins at the champion, which is named.

    Args:
        fine_tuning: The section.
        registry: The section.

    Returns:
        `fine_tuning`; and `champion`, such as models:/digits/3, with the `registry` that holds it; both
        are empty where `fine_tuning.init` is the probe, or no model is champion yet.

    Raises:
        GraftError: a section is wrong, or MLflow does not answer.
    """
    nothing = {"fine_tuning": fine_tuning, "registry": {}, "champion": None}
    if parse(FineTuning, fine_tuning, "params: fine_tuning").init != "champion":
        return nothing
    from graft.registry.champion import champion_version

    params = parse(Registry, registry, "params: registry")
    version = champion_version(params)
    if version is None:
        return nothing
    return {**nothing, "registry": registry, "champion": f"models:/{params.model_name}/{version}"}


def begin(
    champion: str | None, params: FineTuning, registry: Mapping[str, Any], probe: Path, work: Path
) -> Path:
    """The classifier that fine-tuning goes on from: the champion where that can be, else the probe.

    It cannot where the task or the network is another one: its classes or its backbone differ from the
    probe's, which was made from today's data and parameters. What was chosen, and why, is said.

    Args:
        champion: Of `settings_of`.
        params: The section `fine_tuning`.
        registry: Of `settings_of`.
        probe: Folder of the probe.
        work: Receives the champion.
    """
    if params.init != "champion":
        return probe
    if champion is None:
        say("fine_tuning: there is no champion yet, so it begins at the probe")
        return probe
    folder = work / "champion"
    reason = _fetch(champion, registry, folder) or _why_not(folder, probe)
    say(f"fine_tuning: begins at the {f'probe, since {champion} {reason}' if reason else champion}")
    return probe if reason else folder


def _fetch(champion: str, registry: Mapping[str, Any], folder: Path) -> str | None:
    """Put the champion into a folder, or tell what is wrong with it."""
    if folder.is_dir():
        return None
    from graft.registry.champion import fetch_version

    params = parse(Registry, registry, "params: registry")
    found, problem = fetch_version(params, champion.rsplit("/", 1)[1])
    if found is None:
        return f"cannot be used: {problem}"
    with whole_folder(folder) as temporary:
        shutil.copytree(found, temporary, dirs_exist_ok=True)
    return None


def _why_not(champion: Path, probe: Path) -> str | None:
    from graft.backbones.descriptions import read_model_json

    theirs, ours = read_model_json(champion), read_model_json(probe)
    if theirs["classes"] != ours["classes"]:
        return f"knows the classes {', '.join(theirs['classes'])}"
    if any(theirs["backbone"].get(key) != ours["backbone"].get(key) for key in NETWORK):
        return f"is another network, {theirs['backbone']['name']}"
    return None
