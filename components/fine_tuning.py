"""Fine-tuning: the backbone learns the task, and a baseline learns it without the backbone."""

from kfp.dsl import Dataset, Input, Model, Output

from components.base import component


@component
def fine_tuning(
    fine_tuning: dict,
    registry: dict,
    images: Input[Dataset],
    views: Input[Dataset],
    network: Input[Model],
    probe: Input[Model],
    fine_tuned: Output[Model],
    scratch: Output[Model],
) -> None:
    """Fine-tune from the probe or the champion; also train the same architecture from scratch, as baseline.

    Args:
        fine_tuning: The section `fine_tuning` of params.yaml.
        registry: The section `registry` of params.yaml: where the champion is.
        images: The image table.
        views: Holds the augmentation policy that training draws from.
        network: The pretrained backbone.
        probe: Its linear head is where fine-tuning starts.
        fine_tuned: The classifier, with its training history.
        scratch: The baseline, or why there is none.
    """
    from graft.steps import run
    from graft.steps.warm_start import settings_of

    run(
        "fine_tuning",
        settings=settings_of(fine_tuning, registry),
        inputs={"images": images.path, "views": views.path, "network": network.path, "probe": probe.path},
        outputs={"fine_tuned": fine_tuned.path, "scratch": scratch.path},
    )
