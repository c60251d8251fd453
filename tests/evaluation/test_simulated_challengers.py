"""The gate against challengers whose true difference is known; benchmarks/gate.md has the whole table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gate.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gate", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_simulated_models_have_the_accuracy_asked_for(benchmark: ModuleType) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(200_000) % 10
    hard = generator.standard_normal(len(labels))
    champion, other = (benchmark.answers(hard, a, 0.9, labels, generator) == labels for a in (0.85, 0.88))
    assert champion.mean() == pytest.approx(0.85, abs=0.004)
    assert other.mean() == pytest.approx(0.88, abs=0.004)
    assert 0.06 < (champion != other).mean() < 0.1  # and not 0.23, as independent errors would give


@pytest.mark.parametrize("candidates", [1, 4])
def test_equal_challengers_are_rarely_promoted_and_better_ones_often(
    benchmark: ModuleType, candidates: int
) -> None:
    equal, better = (
        benchmark.simulate(benchmark.Setting(difference, candidates=candidates), 200)
        for difference in (0.0, 0.03)
    )
    assert equal.by_noise_rules <= 10  # 5 %
    assert better.promoted > 80
