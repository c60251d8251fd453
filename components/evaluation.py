"""Evaluation: candidates and the champion on the same held-out images, and the decision."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.base import component


@component
def evaluation(
    evaluation: dict,
    registry: dict,
    images: Input[Dataset],
    probe: Input[Model],
    fine_tuned: Input[Model],
    adapted: Input[Model],
    scratch: Input[Model],
    scores: Output[Metrics],
    predictions: Output[Dataset],
    winner: Output[Model],
    decision: Output[Artifact],
    report: Output[HTML],
) -> None:
    """Score every candidate and the champion, compare them image by image, decide and report.

    Args:
        evaluation: The section `evaluation` of params.yaml.
        registry: The section `registry` of params.yaml: where the champion is.
        images: The image table; its test split is read here and nowhere else.
        probe: Candidate: linear head on frozen features.
        fine_tuned: Candidate: fine-tuned.
        adapted: Candidate: adapted to the target domain.
        scratch: Candidate and baseline: trained from scratch.
        scores: Accuracy and its fellows with intervals, as JSON.
        predictions: One row per candidate and test image, as Parquet.
        winner: A copy of the best candidate.
        decision: Promote or not, and every reason, as JSON.
        report: One HTML page that stands alone.
    """
    from graft.steps import run

    run(
        "evaluation",
        settings={"evaluation": evaluation, "registry": registry},
        inputs={
            "images": images.path,
            "probe": probe.path,
            "fine_tuned": fine_tuned.path,
            "adapted": adapted.path,
            "scratch": scratch.path,
        },
        outputs={
            "scores": scores.path,
            "predictions": predictions.path,
            "winner": winner.path,
            "decision": decision.path,
            "report": report.path,
        },
        reusable=False,  # who the champion is can change between two runs
    )
