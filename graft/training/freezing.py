"""Frozen means frozen: neither parameters nor BatchNorm statistics move, whatever mode is set."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.utils.hooks import RemovableHandle

_HANDLE = "_graft_frozen"


def freeze(module: nn.Module) -> None:
    """Stop a module from learning until `unfreeze`.

    `requires_grad = False` alone leaves BatchNorm's running statistics drifting in train mode and
    dropout active. So the module also puts itself into eval mode before every forward pass, which
    holds however often somebody calls `model.train()`.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for part in module.modules():
        if not hasattr(part, _HANDLE):
            setattr(part, _HANDLE, part.register_forward_pre_hook(_to_eval))
    module.eval()


def keep_statistics(module: nn.Module) -> None:
    """Let BatchNorm layers that learn go on learning, but normalise by their stored statistics.

    A running average over a few dozen batches of augmented crops is noisier than what pretraining
    found on a million images, and a network is tested with it. `unfreeze` undoes this.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            learning = [p for p in part.parameters(recurse=False) if p.requires_grad]
            freeze(part)
            for parameter in learning:
                parameter.requires_grad_(True)


def unfreeze(module: nn.Module) -> None:
    """Let a module learn again; harmless on one that was not frozen."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    for part in module.modules():
        handle: RemovableHandle | None = part.__dict__.pop(_HANDLE, None)
        if handle is not None:
            handle.remove()


def trainable(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that learn, each once."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def _to_eval(module: nn.Module, _inputs: object) -> None:
    module.train(False)
