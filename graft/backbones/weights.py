"""A backbone with its weights, from wherever params.yaml says they come."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from graft.backbones import catalogue
from graft.backbones.checkpoint import read_tensors, without_head
from graft.backbones.classifier import load_classifier
from graft.backbones.looks import looks_like
from graft.backbones.origins import check_sha256, local_file, mlflow_model, torchvision_file
from graft.backbones.tensors import misfits, shorten
from graft.backbones.trunk import BackboneConfig, Trunk, assemble, build
from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing
from graft.params import Backbone

FILES = (".pth", ".pt", ".bin", ".tar", ".safetensors")


def prepare(params: Backbone) -> tuple[Trunk, BackboneConfig]:
    """Build the network that `params` names and give it the weights that `params` names.

    Weights are: "random"; "pretrain" (random here: whoever trains starts from these); a name of the
    library such as DEFAULT or IMAGENET1K_V2; a file; s3://bucket/key; models:/name@alias. A file's
    classification head is dropped; every other tensor must fit.

    Raises:
        GraftError: no such architecture or weights, no network, a wrong hash, weights of another
            architecture, or a file that could only be read by running code from it.
    """
    weights = params.weights
    if weights in ("random", "pretrain"):
        _refuse_sha256(params, f"{weights!r} has no file")
        trunk, config = build(params.name, seed=params.seed)
        return trunk, replace(config, weights=weights)
    if weights.startswith("models:/"):
        return _from_mlflow(params)
    if weights.startswith("s3://") or weights.endswith(FILES) or "/" in weights:
        with local_file(weights) as path:
            return _from_file(params, path, None)
    return _published(params)


def _published(params: Backbone) -> tuple[Trunk, BackboneConfig]:
    provider = catalogue.provider_of(params.name)
    if provider == "timm":
        _refuse_sha256(params, "timm downloads its own weights")
        return assemble(params.name, catalogue.pretrained_timm(params.name, params.weights), params.weights)
    members = catalogue.published(params.name)
    if params.weights not in members:
        names = ", ".join(members) or f"none for {params.name}"
        raise GraftError(
            f"backbone.weights: {params.weights!r} is neither a file nor published weights of {params.name}",
            f"published: {names}; or give random, pretrain, a file ({', '.join(FILES)}), s3:// or models:/",
        )
    member = members[params.weights]
    preprocessing = catalogue.torchvision_preprocessing(params.name, member)
    return _from_file(params, torchvision_file(member), preprocessing)


def _from_file(
    params: Backbone, path: Path, preprocessing: Preprocessing | None
) -> tuple[Trunk, BackboneConfig]:
    digest = check_sha256(path, params.sha256, params.weights)
    preprocessing = preprocessing or catalogue.preprocessing_of_file(params.name, digest)
    trunk, config = build(params.name, seed=params.seed, preprocessing=preprocessing)
    state = read_tensors(path, params.weights)
    wrong = misfits(trunk.network, without_head(state, trunk.head))
    if wrong:
        raise _another_architecture(params, state, wrong)
    return trunk, replace(config, weights=params.weights, sha256=digest)


def _from_mlflow(params: Backbone) -> tuple[Trunk, BackboneConfig]:
    with tempfile.TemporaryDirectory(prefix="graft-model-") as folder:
        found = mlflow_model(params.weights, Path(folder))
        digest = check_sha256(found / "weights.safetensors", params.sha256, params.weights)
        model = load_classifier(found)
    name = model.config.name
    if name != params.name:
        raise GraftError(
            f"backbone.weights: {params.weights} is a {name}, but backbone.name is {params.name}",
            f"set backbone.name to {name}, or name a model of that architecture",
        )
    return model.trunk.train(), replace(model.config, weights=params.weights, sha256=digest)


def _refuse_sha256(params: Backbone, reason: str) -> None:
    if params.sha256:
        raise GraftError(
            f"backbone.sha256 is {params.sha256}, but with backbone.weights {params.weights!r} there is "
            f"nothing to check: {reason}",
            "remove backbone.sha256, or give backbone.weights a file",
        )


def _another_architecture(params: Backbone, state: Mapping[str, Tensor], wrong: list[str]) -> GraftError:
    fix = f"give weights of {params.name}"
    likely = looks_like(state)
    if likely not in (None, params.name):
        fix = f"the file looks like {likely}: set backbone.name to that, or {fix}"
    return GraftError(f"backbone.weights: {params.weights} does not fit {params.name}: {shorten(wrong)}", fix)
