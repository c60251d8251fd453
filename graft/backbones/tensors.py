"""Named tensors on disk (safetensors, never pickle) and into modules, checked on the way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from graft.errors import GraftError
from graft.files import sha256_file, whole_file

AGAIN = "run the step that writes it again"


def save(state: Mapping[str, Tensor], path: str | Path) -> str:
    """Write tensors as safetensors; equal tensors give equal bytes.

    Returns:
        The file's sha256.

    Raises:
        GraftError: the disk is full.
    """
    # Clones, because safetensors refuses tensors that share memory; layouts such as channels_last go.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with whole_file(path) as temporary:
        temporary.write_bytes(to_bytes(plain))  # save_file does not say when the disk is full
        return sha256_file(temporary)


def load(path: str | Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file; with `sha256`, only if its bytes are the expected ones.

    Raises:
        GraftError: the file is missing, half-written, or not the one that was written.
    """
    path = Path(path)
    if not path.is_file():
        raise GraftError(f"{path} does not exist", AGAIN)
    if sha256 is not None and (actual := sha256_file(path)) != sha256:
        raise GraftError(
            f"{path} is not the file that was written: its sha256 begins with {actual[:12]}, "
            f"{sha256[:12]} was expected",
            AGAIN,
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise GraftError(f"{path} is not a whole safetensors file: {error}", AGAIN) from error


def fill(module: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Copy tensors into a module that has exactly these names and shapes.

    Args:
        module: Receives them.
        state: Its parameters and buffers by name.
        what: Where the tensors came from, for the error.

    Raises:
        GraftError: they do not fit.
    """
    wrong = misfits(module, state)
    if wrong:
        raise GraftError(f"the weights of {what} do not fit: {shorten(wrong)}", AGAIN)


def misfits(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy tensors into a module; say what did not fit, such as "conv1.weight is missing".

    `num_batches_tracked` may be missing: it is younger than many weights files, and only counts.
    """
    own = module.state_dict()
    wrong = [
        f"{name} has shape {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    if wrong:
        return wrong
    # Some modules refuse, or convert, a state dict by the version noted beside its tensors.
    versioned = OrderedDict(state)
    versioned._metadata = getattr(state, "_metadata", own._metadata)  # type: ignore[attr-defined]
    result = module.load_state_dict(versioned, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    return [f"{name} is missing" for name in missing] + [
        f"{name} is unknown" for name in result.unexpected_keys
    ]


def shorten(texts: Sequence[str], first: int = 4) -> str:
    """The first few, and how many more there are."""
    rest = len(texts) - first
    return "; ".join(texts[:first]) + (f"; and {rest} more" if rest > 0 else "")
