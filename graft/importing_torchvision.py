"""How torchvision is imported: beside a CPU build of torch as well, and without torch's compiler.

The package index's wheel is linked against CUDA. Beside a torch without CUDA its compiled operators do not
load, and the import fails as it registers a shape function for an operator nobody declared. graft uses no
detection operator, so declaring their names is all that is missing.

`torchvision.ops.roi_align` imports the whole compiler, `torch._dynamo`, for one question that it asks when
it runs on a GPU. That takes seven times as long as the rest of torchvision, in every step that has a network.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo.utils"


class TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Finds torchvision where Python does, and has it loaded as above."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for all but torchvision: whoever comes next is asked."""
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
            return spec
        return spec_from_file_location(
            name,
            spec.origin,
            loader=_Loader(name, spec.origin),
            submodule_search_locations=spec.submodule_search_locations,
        )


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        import torch

        if torch.version.cuda is None:
            arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define("torchvision::nms", arguments)
            torch.library.define("torchvision::qnms", arguments)
        with compiler_later():
            super().exec_module(module)


@contextmanager
def compiler_later() -> Iterator[None]:
    """Within, `torch._dynamo.utils` is a stand-in, which imports the module when it is used."""
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = _StandIn(COMPILER)
    try:
        yield
    finally:
        _withdraw()


class _StandIn(ModuleType):
    def is_compile_supported(self, device_type: str) -> bool:
        """What torchvision imports: it asks when its operator runs on a GPU."""
        return bool(self.__getattr__("is_compile_supported")(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _withdraw()
        return getattr(importlib.import_module(COMPILER), name)


def _withdraw() -> None:
    if isinstance(sys.modules.get(COMPILER), _StandIn):
        del sys.modules[COMPILER]
