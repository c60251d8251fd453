"""Backbone: the pretrained network that everything after starts from."""

from kfp.dsl import Dataset, Input, Model, Output

from components.base import component


@component
def backbone(backbone: dict, images: Input[Dataset], network: Output[Model]) -> None:
    """Fetch or pretrain the backbone; write it as safetensors with its preprocessing and hash.

    Args:
        backbone: The section `backbone` of params.yaml.
        images: The image table; read only when the backbone is pretrained on the source domain.
        network: The backbone.
    """
    from graft.steps import run

    run(
        "backbone",
        settings={"backbone": backbone},
        inputs={"images": images.path},
        outputs={"network": network.path},
    )
