"""The DAG: eight steps, no branches. What runs on a laptop and what runs on a cluster is this."""

from kfp import dsl

from components.augmentation import augmentation as augmentation_step
from components.backbone import backbone as backbone_step
from components.data_validation import data_validation as data_validation_step
from components.domain_adaptation import domain_adaptation as domain_adaptation_step
from components.evaluation import evaluation as evaluation_step
from components.feature_extraction import feature_extraction as feature_extraction_step
from components.fine_tuning import fine_tuning as fine_tuning_step
from components.model_registration import model_registration as model_registration_step


@dsl.pipeline(
    name="retraining", description="Retrain an image classifier by transfer learning, and judge it."
)
def retraining(
    folder: str,
    data: dict = {},  # noqa: B006 - kfp reads the default, nothing mutates it
    backbone: dict = {},  # noqa: B006
    augmentation: dict = {},  # noqa: B006
    feature_extraction: dict = {},  # noqa: B006
    fine_tuning: dict = {},  # noqa: B006
    domain_adaptation: dict = {},  # noqa: B006
    evaluation: dict = {},  # noqa: B006
    registry: dict = {},  # noqa: B006
    lineage: dict = {},  # noqa: B006
) -> None:
    """Each section of params.yaml goes to its own step alone, so that a change invalidates that step.

    Args:
        folder: The data folder.
        data: Section `data`.
        backbone: Section `backbone`.
        augmentation: Section `augmentation`.
        feature_extraction: Section `feature_extraction`.
        fine_tuning: Section `fine_tuning`.
        domain_adaptation: Section `domain_adaptation`.
        evaluation: Section `evaluation`.
        registry: Section `registry`.
        lineage: Git commit and parameters, for the registered model.
    """
    validated = data_validation_step(data=data, folder=folder)
    images = validated.outputs["images"]
    network = backbone_step(backbone=backbone, images=images).outputs["network"]
    views = augmentation_step(augmentation=augmentation, images=images).outputs["views"]
    probe = feature_extraction_step(
        feature_extraction=feature_extraction, images=images, views=views, network=network
    ).outputs["probe"]
    tuned = fine_tuning_step(
        fine_tuning=fine_tuning,
        registry=registry,
        images=images,
        views=views,
        network=network,
        probe=probe,
    ).outputs
    adapted = domain_adaptation_step(
        domain_adaptation=domain_adaptation,
        images=images,
        views=views,
        probe=probe,
        fine_tuned=tuned["fine_tuned"],
    ).outputs["adapted"]
    judged = evaluation_step(
        evaluation=evaluation,
        registry=registry,
        images=images,
        probe=probe,
        fine_tuned=tuned["fine_tuned"],
        adapted=adapted,
        scratch=tuned["scratch"],
    ).outputs
    model_registration_step(
        registry=registry,
        lineage=lineage,
        images=images,
        network=network,
        scores=judged["scores"],
        predictions=judged["predictions"],
        winner=judged["winner"],
        decision=judged["decision"],
        report=judged["report"],
    )
