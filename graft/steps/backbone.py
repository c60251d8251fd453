"""Step: the pretrained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.resolution import at_resolution
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
    table = read_table(images)
    trunk, config = prepare(params)
    config = at_resolution(trunk, config, input_size=params.input_size, short_side=table.short_side)
    history: History = []
    if params.weights == "pretrain":
        trunk, history = pretrain(table, trunk, config, params.pretrain, seed=params.seed, work=work)
    save_backbone(trunk, config, network)
    if history:
        write_json(network / "history.json", history)
