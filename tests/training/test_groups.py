import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graft.training.freezing import freeze
from graft.training.groups import parameter_groups, set_rate

PARTS = ("stem", "middle", "again", "norm", "head", "twin")


def network() -> nn.ModuleDict:
    """`again` is `middle`, and `twin` shares the weight of `head`."""
    parts = {"stem": nn.Conv2d(3, 4, 3), "middle": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)}
    model = nn.ModuleDict({**parts, "head": nn.Linear(4, 4), "twin": nn.Linear(4, 4)})
    model["again"] = model["middle"]
    model["twin"].weight = model["head"].weight
    return model


@given(st.sets(st.sampled_from(PARTS)), st.lists(st.sampled_from([0.1, 1.0, 3.0]), min_size=6, max_size=6))
def test_each_trainable_parameter_is_in_one_group_once(frozen: set[str], factors: list[float]) -> None:
    model = network()
    for part in sorted(frozen):
        freeze(model[part])
    by_part = dict(zip(PARTS, factors, strict=True))
    groups = parameter_groups(model, 0.1, lambda name: by_part[name.split(".")[0]])

    chosen = [id(p) for group in groups for p in group["params"]]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == {id(p) for p in model.parameters() if p.requires_grad}
    kinds = [(group["factor"], group["weight_decay"]) for group in groups]
    assert len(kinds) == len(set(kinds))
    names = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["factor"] == by_part[names[id(parameter)].split(".")[0]]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_each_group_learns_at_its_factor_of_the_rate() -> None:
    model = network()
    groups = parameter_groups(model, 0.0, lambda name: 0.5 if name.startswith("stem") else 2.0)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    for rate in (1.0, 0.25):
        set_rate(optimizer, rate)
        assert {group["factor"]: group["lr"] for group in optimizer.param_groups} == {
            0.5: rate / 2,
            2.0: rate * 2,
        }


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_would_not_teach_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"learning rate of head.weight has the factor .*freeze\(\)"):
        parameter_groups(network(), 0.1, lambda name: factor if name == "head.weight" else 1.0)


def test_what_is_frozen_needs_no_factor() -> None:
    model = network()
    freeze(model["stem"])
    parameter_groups(model, 0.1, lambda name: 0.0 if name.startswith("stem") else 1.0)


LEARN = """
import sys, torch
from graft.training.groups import adamw
model = torch.nn.Linear(2, 1)
ours = adamw(model, 0.1, 0.01)
twin = torch.nn.Linear(2, 1)
twin.load_state_dict(model.state_dict())
for _ in range(3):
    ours.zero_grad()
    model(torch.ones(4, 2)).sum().backward()
    ours.step()
    ours.load_state_dict(ours.state_dict())
print("torch._dynamo" in sys.modules)
groups = [{"params": [twin.weight], "weight_decay": 0.01}, {"params": [twin.bias], "weight_decay": 0.0}]
theirs = torch.optim.AdamW(groups, lr=0.1)
for _ in range(3):
    theirs.zero_grad()
    twin(torch.ones(4, 2)).sum().backward()
    theirs.step()
print(all(torch.allclose(a, b) for a, b in zip(model.parameters(), twin.parameters())))
"""


def test_learning_is_torchs_own_and_imports_no_compiler() -> None:
    """The compiler's import takes longer than many a training."""
    done = subprocess.run([sys.executable, "-c", LEARN], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]
