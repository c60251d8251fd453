"""Step: the pretrained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.trunk import save_backbone
from graft.backbones.weights import prepare
from graft.files import write_json
from graft.images.table import read_table
from graft.methods.pretrain import pretrain
from graft.params import Backbone, parse
from graft.steps.running import run_step
from graft.training.loop import History


def run(*, backbone: Mapping[str, Any], images: str, network: str) -> None:
    """See components/backbone.py."""
    run_step(
        "backbone",
        _prepare,
        settings={"backbone": backbone},
        inputs={"images": images},
        outputs={"network": network},
    )


def _prepare(*, backbone: Mapping[str, Any], images: Path, network: Path, work: Path) -> None:
    params = parse(Backbone, backbone, "params: backbone")
    trunk, config = prepare(params)
    history: History = []
    if params.weights == "pretrain":
        trunk, history = pretrain(
            read_table(images), trunk, config, params.pretrain, seed=params.seed, work=work
        )
    save_backbone(trunk, config, network)
    if history:
        write_json(network / "history.json", history)
