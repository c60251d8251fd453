"""Feature extraction: the frozen backbone's features, and a linear probe on them."""

from kfp.dsl import Dataset, Input, Model, Output

from components.base import component


@component
def feature_extraction(
    feature_extraction: dict,
    images: Input[Dataset],
    views: Input[Dataset],
    network: Input[Model],
    features: Output[Dataset],
    probe: Output[Model],
) -> None:
    """Extract features of images and views; fit logistic regression along its regularisation path.

    Args:
        feature_extraction: The section `feature_extraction` of params.yaml.
        images: The image table.
        views: Augmented views of its training images.
        network: The frozen backbone.
        features: Features as Parquet, one row per image or view.
        probe: The backbone with the linear head that was best on validation.
    """
    from graft.steps import run

    run(
        "feature_extraction",
        settings={"feature_extraction": feature_extraction},
        inputs={"images": images.path, "views": views.path, "network": network.path},
        outputs={"features": features.path, "probe": probe.path},
    )
