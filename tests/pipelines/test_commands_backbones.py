"""`graft backbones`, `graft verify-backbone` and `graft rank`, as a user types them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from graft.backbones import catalogue
from graft.errors import GraftError
from pipelines.commands_backbones import COMMANDS, parse_backbones

backbones, verify_backbone, rank = COMMANDS


def test_the_list_has_a_line_per_architecture() -> None:
    result = CliRunner().invoke(backbones, ["--search", "squeezenet"], catch_exceptions=False)
    lines = result.output.splitlines()
    assert lines[0].split()[0] == "name"
    assert lines[1].split() == ["squeezenet1_0", "0.74", "224", "512", "IMAGENET1K_V1"]
    assert lines[2].split()[0] == "squeezenet1_1"


def test_a_search_without_result_is_an_error() -> None:
    with pytest.raises(GraftError, match="'nosuchnet'"):
        CliRunner().invoke(backbones, ["--search", "nosuchnet"], catch_exceptions=False)


def test_verifying_prints_both_accuracies(tmp_path: Path) -> None:
    name = "timm/test_resnet"
    torch.save(catalogue.create(name, seed=0, with_head=True).module.state_dict(), tmp_path / "w.pth")
    (tmp_path / "n").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "n" / "n01440764_tench.png")
    arguments = [name, "--images", str(tmp_path / "n"), "--weights", str(tmp_path / "w.pth")]
    result = CliRunner().invoke(verify_backbone, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "1 photographs" in result.output
    assert "top-1: " in result.output
    assert "top-5: " in result.output


def test_ranking_prints_a_table_and_what_it_means(
    two_domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = ["--backbones", "digits_cnn,resnet20", "--backbones", "resnet20=nowhere.pth"]
    result = CliRunner().invoke(rank, ["--data", str(two_domains), *named], catch_exceptions=False)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if " random " in line]
    assert {row[0] for row in rows} == {"digits_cnn", "resnet20"}
    assert float(rows[0][3]) >= float(rows[1][3])
    assert "resnet20 (nowhere.pth) could not be ranked" in result.stdout
    assert "You et al. 2021" in result.stdout
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_nothing_ranked_is_a_failure(
    two_domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(two_domains), "--backbones", "resnet20=nowhere.pth"]
    assert CliRunner().invoke(rank, arguments).exit_code == 1


def test_backbones_are_named_with_their_weights() -> None:
    found = parse_backbones(["resnet18, resnet20=a/b=c.pth", "timm/darknet53,digits_cnn"])
    assert [(each.name, each.weights) for each in found] == [
        ("resnet18", "DEFAULT"),
        ("resnet20", "a/b=c.pth"),
        ("timm/darknet53", "DEFAULT"),
        ("digits_cnn", "random"),
    ]
    with pytest.raises(GraftError, match="has no name"):
        parse_backbones(["=random"])
