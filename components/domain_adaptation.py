"""Domain adaptation: unlabelled target images make the classifier fit the target."""

from kfp.dsl import Dataset, Input, Model, Output

from components.base import component


@component
def domain_adaptation(
    domain_adaptation: dict,
    images: Input[Dataset],
    views: Input[Dataset],
    probe: Input[Model],
    fine_tuned: Input[Model],
    adapted: Output[Model],
) -> None:
    """Adapt a classifier from the source to the target domain; skipped for one domain.

    Args:
        domain_adaptation: The section `domain_adaptation` of params.yaml.
        images: The image table.
        views: Holds the augmentation policy that training draws from.
        probe: Where adaptation starts if nothing was fine-tuned.
        fine_tuned: Where it starts otherwise.
        adapted: The adapted classifier with its training history, or why there is none.
    """
    from graft.steps import run

    run(
        "domain_adaptation",
        settings={"domain_adaptation": domain_adaptation},
        inputs={
            "images": images.path,
            "views": views.path,
            "probe": probe.path,
            "fine_tuned": fine_tuned.path,
        },
        outputs={"adapted": adapted.path},
    )
