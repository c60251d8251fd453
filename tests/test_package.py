"""What `import graft` promises."""

import subprocess
import sys
from pathlib import Path

import pytest

import graft
from graft.errors import GraftError


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_graft_costs_no_heavy_import() -> None:
    loaded = python("import sys, graft; print([m for m in ('torch', 'mlflow', 'kfp') if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_torchvision_imports_beside_a_torch_without_cuda() -> None:
    """The package index's wheel is built for CUDA and fails on its own beside a CPU build of torch."""
    code = "import graft, torchvision; print(torchvision.models.resnet18().fc.in_features)"
    assert python(code).strip() == "512"


def test_torchvision_imports_without_torchs_compiler() -> None:
    code = "import sys, graft, torchvision; print([m for m in sys.modules if m.startswith('torch._dynamo')])"
    assert python(code).strip() == "[]"


def test_who_only_asks_whether_torchvision_is_there_changes_nothing() -> None:
    """As transformers does before it imports it."""
    code = (
        "import graft, importlib.util; importlib.util.find_spec('torchvision'); import torchvision;"
        "print(torchvision.models.resnet18().fc.in_features)"
    )
    assert python(code).strip() == "512"


def test_after_torchvision_the_compiler_is_the_real_one() -> None:
    code = (
        "import graft, torchvision; from torchvision.ops.roi_align import is_compile_supported as asked;"
        "before = asked('cpu'); from torch._dynamo import utils;"
        "print(before == utils.is_compile_supported('cpu'), utils.__file__.endswith('utils.py'))"
    )
    assert python(code).split() == ["True", "True"]


def test_who_needs_the_compiler_while_torchvision_is_imported_gets_it() -> None:
    code = (
        "import torch\nfrom graft.importing_torchvision import compiler_later\n"
        "with compiler_later():\n"
        "    from torch._dynamo.utils import counters\n"
        "    import torch._dynamo\n"
        "print(counters is torch._dynamo.utils.counters)"
    )
    assert python(code).strip() == "True"


def test_a_step_ends_without_a_last_search_for_garbage() -> None:
    """What is registered before graft.steps runs after it as the process ends."""
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); import graft.steps"
    assert python(code).strip() == "True"


def test_loading_what_is_no_classifier_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"model\.json"):
        graft.load(tmp_path)
