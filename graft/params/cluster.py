"""Section `cluster` of params.yaml: what each step gets from Kubernetes.

It is read when the pipeline is compiled; no step sees it, so it changes no result and no cache key.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from graft.params.base import Count, NotNegativeInt, Section

_as_text = BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)
Cpu = Annotated[str, _as_text, Field(pattern=r"^(\d+|\d*\.\d+|\d+m)$")]  # cores, or thousandths: 500m
Bytes = Annotated[str, _as_text, Field(pattern=r"^\d+([KMGTPE]i|[MGTPE])?$")]  # such as 4Gi
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]  # of a Kubernetes object
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Place = Annotated[str, Field(pattern=r"^/[^:\s]+$")]  # a folder in the container


def quantity(text: str) -> float:
    """The number of cores or bytes that Kubernetes reads in "500m" or "4Gi"."""
    number, suffix = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    if suffix == "m":
        return float(number) / 1000
    power = " KMGTPE".index(suffix[0]) if suffix else 0
    return float(number) * (1024.0 if suffix.endswith("i") else 1000.0) ** power


class _Amount(Section):
    request: str | None = None
    limit: str | None = None

    @model_validator(mode="after")
    def _request_within_limit(self) -> _Amount:
        if self.request and self.limit and quantity(self.request) > quantity(self.limit):
            raise ValueError(f"the request {self.request} is above the limit {self.limit}")
        return self


class CpuAmount(_Amount):
    """Cores: what the scheduler sets aside, and what the step cannot exceed."""

    request: Cpu | None = None
    limit: Cpu | None = None


class MemoryAmount(_Amount):
    """Bytes; /dev/shm counts, too."""

    request: Bytes | None = None
    limit: Bytes | None = None


class Accelerator(Section):
    """GPUs or the like; none unless `count` is given."""

    type: str | None = None  # the resource's name; nvidia.com/gpu unless given
    count: NotNegativeInt | None = None


class Toleration(Section):
    """A taint that does not keep the step off a node."""

    key: str | None = None  # none: every taint, with `operator: Exists`
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: NotNegativeInt | None = None  # with NoExecute

    @model_validator(mode="after")
    def _as_kubernetes_wants(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("`Exists` compares no value; leave `value` out, or use `Equal`")
        if self.operator == "Equal" and (self.key is None or self.value is None):
            raise ValueError("`Equal` needs key and value; or use `operator: Exists`")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("`seconds` is for `effect: NoExecute` alone")
        return self


class Source(Section):
    """A secret or a config map: some of its keys as environment variables, or all of it as a folder."""

    name: Name
    keys: dict[str, Variable] = Field(default_factory=dict)
    mount_path: Place | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Source:
        if bool(self.keys) == bool(self.mount_path):
            raise ValueError("give either `keys: {key: VARIABLE}` or `mount_path`")
        return self


class Volume(Section):
    """Storage: a claim that exists, or a new one that goes with the pod."""

    mount_path: Place
    pvc: Name | None = None
    sub_path: str = ""
    size: Bytes | None = None
    storage_class: Name | None = None  # the cluster's own unless given
    access_mode: Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"] = (
        "ReadWriteOnce"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Volume:
        if bool(self.pvc) == bool(self.size):
            raise ValueError("give either `pvc` (a claim that exists) or `size` (an ephemeral one)")
        if self.pvc and self.storage_class:
            raise ValueError("`storage_class` is for an ephemeral volume; the claim has its own")
        if self.size and self.sub_path:
            raise ValueError("`sub_path` is for a claim; an ephemeral volume is empty")
        return self


class Retries(Section):
    """How often a failed step is tried again, and after which wait."""

    count: NotNegativeInt | None = None
    backoff_seconds: NotNegativeInt | None = None  # before the first retry
    factor: Count | None = None  # of one wait over that before; Argo takes whole numbers only
    # Argo begins no retry later than this after the first attempt began; Kubeflow allows an hour at most.
    max_backoff_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None


class StepResources(Section):
    """What one step gets; of what is not given, the cluster's own defaults."""

    cpu: CpuAmount = CpuAmount()
    memory: MemoryAmount = MemoryAmount()
    accelerator: Accelerator = Accelerator()
    shm: Bytes | None = None  # size of /dev/shm, through which loaders hand over batches
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    secrets: tuple[Source, ...] = ()
    config_maps: tuple[Source, ...] = ()
    volumes: tuple[Volume, ...] = ()
    timeout_seconds: Count | None = None  # of each attempt
    retries: Retries = Retries()
    caching: bool | None = None  # Kubeflow's; on unless given, where it can never answer with old results

    @model_validator(mode="after")
    def _nothing_twice(self) -> StepResources:
        sources = (*self.secrets, *self.config_maps)
        places = [volume.mount_path for volume in self.volumes] + ["/dev/shm"] * bool(self.shm)
        places += [source.mount_path for source in sources if source.mount_path]
        variables = [variable for source in sources for variable in source.keys.values()]
        for what, found in (("folder", places), ("environment variable", variables)):
            twice = {one for one in found if found.count(one) > 1}
            if twice:
                raise ValueError(f"the {what} {min(twice)} is given twice")
        return self


class StepsResources(Section):
    """What single steps get beside or instead of the defaults."""

    data_validation: StepResources = StepResources()
    backbone: StepResources = StepResources()
    augmentation: StepResources = StepResources()
    feature_extraction: StepResources = StepResources()
    fine_tuning: StepResources = StepResources()
    domain_adaptation: StepResources = StepResources()
    evaluation: StepResources = StepResources()
    model_registration: StepResources = StepResources()


class Cluster(Section):
    """Image and resources of the steps on a cluster."""

    image: Annotated[str, Field(pattern=r"^\S+$")] | None = None  # name@sha256:...; else GRAFT_IMAGE
    feature_shards: Count = 1  # tasks that extract features at the same time, into feature_extraction.store
    defaults: StepResources = StepResources()
    steps: StepsResources = StepsResources()


def laid_over(defaults: Any, own: Any) -> Any:
    """Plain values with others on top: mappings key by key, lists added up, None is not given."""
    if own is None:
        return defaults
    if isinstance(defaults, dict) and isinstance(own, dict):
        return {**defaults, **{key: laid_over(defaults.get(key), value) for key, value in own.items()}}
    if isinstance(defaults, tuple) and isinstance(own, tuple):
        return defaults + own
    return own
