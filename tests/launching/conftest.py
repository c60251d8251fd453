"""What the step fine_tuning reads, small enough for seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build, save_backbone
from graft.files import read_json
from graft.images.augmentation import write_policy
from graft.images.table import ImageTable
from graft.params import Augmentation
from graft.steps import fine_tuning

# With BatchNorm's stored statistics a slice of a batch is answered as the whole batch is.
SECTION = {
    "method": "all",
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.001,
    "statistics": "stored",
    "patience": 9,
    "precision": "float32",  # in bfloat16 a slice rounds otherwise than the whole batch
    "baseline": False,
}


@dataclass(frozen=True)
class Step:
    """The step with its inputs; its outputs and checkpoints go below a folder of the test's choice."""

    inputs: dict[str, Path]

    def run(self, place: Path, launch: dict[str, Any], **section: Any) -> None:
        fine_tuning.run(
            fine_tuning={**SECTION, **section, "launch": launch},
            registry={},
            champion=None,
            **self.inputs,
            fine_tuned=place / "fine_tuned",
            scratch=place / "scratch",
            work=place / "work",
        )


def weights(place: Path) -> dict[str, Tensor]:
    return load_file(place / "fine_tuned" / "weights.safetensors")


def history(place: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(place / "fine_tuned" / "history.json")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="session")
def step(table: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> Step:
    folder = tmp_path_factory.mktemp("inputs")
    trunk, config = build("digits_cnn", seed=0)
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, len(table.classes))
    save_backbone(trunk, config, folder / "network")
    model = Classifier(trunk, head, config=config, classes=table.classes)
    save_classifier(model, folder / "probe", method="logistic", extra={})
    (folder / "views").mkdir()
    write_policy(Augmentation(), folder / "views")
    return Step({"images": table.path, **{name: folder / name for name in ("views", "network", "probe")}})
