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
from graft.training.loop import History


def run(*, backbone: Mapping[str, Any], images: Path, network: Path, work: Path) -> None:
    """See components/backbone.py."""
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
