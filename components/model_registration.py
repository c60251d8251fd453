"""Model registration: the winner becomes a registered version with its lineage."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.base import component


@component
def model_registration(
    registry: dict,
    lineage: dict,
    images: Input[Dataset],
    network: Input[Model],
    scores: Input[Metrics],
    predictions: Input[Dataset],
    winner: Input[Model],
    decision: Input[Artifact],
    report: Input[HTML],
    registered: Output[Artifact],
) -> None:
    """Register the winner as challenger, and as champion when the decision says so.

    Args:
        registry: The section `registry` of params.yaml.
        lineage: What the driver knows of the run's origin: git commit, parameters, run name.
        images: The image table, for the digest of the data.
        network: The backbone, for its hash.
        scores: Logged as metrics.
        predictions: Logged with the model, so that it can be verified later.
        winner: The model to register.
        decision: Obeyed.
        report: Logged with the model.
        registered: Name, version, aliases and address, as JSON.
    """
    from graft.steps import run

    run(
        "model_registration",
        settings={"registry": registry, "lineage": lineage},
        inputs={
            "images": images.path,
            "network": network.path,
            "scores": scores.path,
            "predictions": predictions.path,
            "winner": winner.path,
            "decision": decision.path,
            "report": report.path,
        },
        outputs={"registered": registered.path},
        reusable=False,  # the registry may have changed
    )
