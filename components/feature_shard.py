"""Feature shard: on a cluster, one of several tasks that extract features at the same time."""

from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.base import component


@component
def feature_shard(
    feature_extraction: dict,
    number: int,
    count: int,
    images: Input[Dataset],
    views: Input[Dataset],
    network: Input[Model],
    made: Output[Artifact],
) -> None:
    """Extract the features of every count-th image and view into the store, where the next step finds them.

    Args:
        feature_extraction: The section `feature_extraction` of params.yaml; `store` names the store.
        number: Which share, from 0.
        count: How many there are.
        images: The image table.
        views: Augmented views of its training images.
        network: The frozen backbone.
        made: How many features the share has, as JSON.
    """
    from graft.steps import run

    run(
        "feature_shard",
        settings={"feature_extraction": feature_extraction, "number": number, "count": count},
        inputs={"images": images.path, "views": views.path, "network": network.path},
        outputs={"made": made.path},
    )
