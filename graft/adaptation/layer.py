"""Where in a network the domains are compared."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from graft.backbones.assembled import by_position
from graft.backbones.classifier import Classifier
from graft.backbones.layers import module_of, outputs

# Images (N, 3, S, S) -> what is compared (N, L), and the trunk's features (N, F).
Compared = Callable[[Tensor], tuple[Tensor, Tensor]]


def compared(model: Classifier, layer: str | None) -> tuple[Compared, int]:
    """What a layer gives in the same pass as the trunk's features, and its length L.

    Early layers see what differs between domains, late ones the classes: Ganin & Lempitsky 2015 compare
    the convolutions of their digits network and no layer after them.

    Args:
        model: The classifier; it stays as it is.
        layer: A stage or module of its trunk, averaged over positions; None: the trunk's features.

    Raises:
        GraftError: there is no such layer, or it gives no features.
    """
    if layer is None:
        return lambda images: (features := model.trunk(images), features), model.config.num_features
    found = outputs(model.trunk, model.config)
    name = module_of(model.trunk, layer, found, asked="domain_adaptation.layer")
    module = model.trunk.network.get_submodule(name)

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []
        with module.register_forward_hook(lambda _module, _inputs, output: given.append(output.clone())):
            features = model.trunk(images)
        return by_position(given[-1]).mean(1), features

    return both, by_position(found[name]).shape[2]
