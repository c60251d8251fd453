"""Section `cluster` of params.yaml: what it refuses, and how its layers lie on each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.params import read_params
from graft.params.cluster import laid_over, quantity


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.steps.fine_tunin.shm=1Gi", r"'cluster.steps.fine_tunin'\n.*did you mean 'fine_tuning'"),
        ("cluster.steps.fine_tuning.memor.limit=1Gi", r"did you mean 'memory'"),
        ("cluster.defaults.cpu.request=lots", r"cluster.defaults.cpu.request = 'lots'"),
        ("cluster.defaults.memory.limit=4gb", r"cluster.defaults.memory.limit = '4gb'"),
        ("cluster.defaults.cpu={request: 4, limit: 500m}", r"the request 4 is above the limit 500m"),
        ("cluster.defaults.memory={request: 4G, limit: 4000M}", None),
        ("cluster.defaults.memory={request: 4Gi, limit: 4G}", r"the request 4Gi is above the limit 4G"),
        ("cluster.defaults.retries.max_backoff_seconds=7200", r"less than or equal to 3600"),
        ("cluster.defaults.retries.factor=1.5", r"retries.factor = 1.5"),
        ("cluster.defaults.secrets=[{name: a}]", r"either `keys: .*` or `mount_path`"),
        ("cluster.defaults.secrets=[{name: a, keys: {x: 1A}}]", r"'1A'"),
        ("cluster.defaults.secrets=[{name: a, kes: {x: A}}]", r"did you mean 'keys'"),
        ("cluster.defaults.volumes=[{mount_path: /a}]", r"either `pvc`"),
        ("cluster.defaults.volumes=[{mount_path: a, pvc: b}]", r"mount_path = 'a'"),
        (
            "cluster.defaults.volumes=[{mount_path: /a, pvc: b}, {mount_path: /a, size: 1Gi}]",
            r"/a is given twi",
        ),
        (
            "cluster.defaults={shm: 1Gi, volumes: [{mount_path: /dev/shm, pvc: b}]}",
            r"/dev/shm is given twice",
        ),
        ("cluster.defaults.tolerations=[{key: a}]", r"`Equal` needs key and value"),
        ("cluster.defaults.tolerations=[{operator: Exists, value: a}]", r"`Exists` compares no value"),
        ("cluster.defaults.timeout_seconds=0", r"timeout_seconds = 0"),
    ],
)
def test_a_bad_section_is_named_with_its_fix(override: str, message: str | None) -> None:
    if message is None:
        read_params([], [override])
        return
    with pytest.raises(GraftError, match=message):
        read_params([], [override])


plain = st.recursive(
    st.one_of(st.none(), st.integers(), st.lists(st.integers(), max_size=3).map(tuple)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
trees = st.dictionaries(st.sampled_from("abc"), plain, max_size=3)


@given(trees, trees)
def test_what_lies_on_top_wins_and_what_it_leaves_out_stays(defaults: Any, own: Any) -> None:
    both = laid_over(defaults, own)
    assert laid_over(defaults, {}) == defaults
    assert both.keys() == defaults.keys() | own.keys()
    for key, value in own.items():
        if isinstance(value, int):
            assert both[key] == value
        if value is None:
            assert both[key] == defaults.get(key)
    for key in defaults.keys() - own.keys():
        assert both[key] == defaults[key]


@given(st.integers(0, 10**6), st.sampled_from(["", "Ki", "Mi", "Gi", "M", "G", "m"]))
def test_quantities_are_read_as_kubernetes_reads_them(number: int, suffix: str) -> None:
    from kubernetes.utils import parse_quantity

    assert quantity(f"{number}{suffix}") == pytest.approx(float(parse_quantity(f"{number}{suffix}")))
