"""Augmentation: the policy, and views of the training images made with it."""

from kfp.dsl import Dataset, Input, Output

from components.base import component


@component
def augmentation(augmentation: dict, images: Input[Dataset], views: Output[Dataset]) -> None:
    """Write augmented views of the training images, the policy, and a picture of both.

    Args:
        augmentation: The section `augmentation` of params.yaml.
        images: The image table.
        views: The views as Parquet, policy.json and sheet.png.
    """
    from graft.steps import run

    run(
        "augmentation",
        settings={"augmentation": augmentation},
        inputs={"images": images.path},
        outputs={"views": views.path},
    )
