"""A classifier as an MLflow model: code and safetensors, no pickle, and no graft to install."""

from __future__ import annotations

import ast
import hashlib
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import graft
from graft.backbones.descriptions import read_model_json
from graft.files import sha256_file
from graft.registry.trial import as_input, trial_images

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

SERVED_MODEL = Path(__file__).with_name("served_model.py")
ARTIFACT = "model"  # the classifier's folder among the model's artifacts
_IMPORTED = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "simplejpeg", "threadpoolctl", "torch")
_OF_PROVIDER = {"graft": (), "torchvision": ("torchvision",), "timm": ("torchvision", "timm")}


def requirements(provider: str) -> list[str]:
    """What the served model imports, pinned to the versions installed here.

    Args:
        provider: The backbone's: "graft", "torchvision" or "timm".
    """
    names = (*_IMPORTED, *_OF_PROVIDER[provider])
    # A build such as 2.13.0+cpu is not on the package index; there it is 2.13.0.
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in names]


def signature() -> ModelSignature:
    """The served model's columns and its parameter `top_k`."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label", required=False),
        ColSpec(DataType.double, "probability", required=False),
        ColSpec(DataType.string, "top", required=False),
        ColSpec(DataType.string, "error", required=False),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),  # text, bytes or numbers
        outputs=Schema(columns),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 3)]),
    )


def copy_code(work: Path) -> Path:
    """Copy those of graft's modules that the served model needs; a server takes every file by itself.

    Args:
        work: Receives the folder `graft`.
    """
    root = Path(graft.__file__).parent.parent
    for file in needed_modules(SERVED_MODEL):
        copy = work / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return work / graft.__name__


def needed_modules(file: Path) -> set[Path]:
    """graft's modules that a Python file imports, at its top or in its functions, directly or not."""
    needed: set[Path] = set()
    waiting = {file}
    while waiting:
        found = set().union(*(_imported(each) for each in waiting))
        waiting = found - needed
        needed |= found
    return needed


def _imported(file: Path) -> set[Path]:
    root = Path(graft.__file__).parent.parent
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names if name.split(".")[0] == graft.__name__]
    paths = {root.joinpath(*each[:depth]) for each in parts for depth in range(1, len(each) + 1)}
    candidates = {file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")}
    return {candidate for candidate in candidates if candidate.is_file()}


def log_model(winner: Path, work: Path) -> ModelInfo:
    """Log a classifier to the active run.

    Args:
        winner: The classifier's folder.
        work: A temporary folder.

    Returns:
        What MLflow says of it; `model_uri` loads it.
    """
    import mlflow

    folder = work / ARTIFACT
    folder.mkdir()
    for name in ("model.json", "weights.safetensors"):
        shutil.copyfile(winner / name, folder / name)
    config = read_model_json(winner)["backbone"]
    example = trial_images(config["preprocessing"]["resize_size"])[:1]
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(SERVED_MODEL),
        artifacts={ARTIFACT: str(folder)},
        code_paths=[str(copy_code(work))],
        signature=signature(),
        input_example=as_input(example),
        pip_requirements=requirements(config["provider"]),
    )


def digest_of_files(model: Path) -> str:
    """SHA-256 over the names and bytes of a stored model's files, in hexadecimal.

    What MLflow adds to a download, and Python to a folder it imports from, is left out.
    """
    digest = hashlib.sha256()
    for file in sorted(model.rglob("*")):
        if file.is_file() and file.name != "registered_model_meta" and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(model).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
