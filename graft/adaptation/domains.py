"""Both domains, step by step: what every method that trains a network draws from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from graft.adaptation.fourier import Restyled
from graft.adaptation.layer import Compared, compared
from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.training.batches import Batches, Stream
from graft.training.loop import Loss
from graft.training.schedules import reversal
from graft.training.supervised import accuracy, domain_batches, draw, labelled_index, steps_per_epoch


@dataclass(frozen=True)
class Domains:
    """Streams of batches.

    Attributes:
        source: Labelled; in the target's style, where `domain_adaptation.fourier` is on.
        target: All training images of the target; what labels they may carry is not looked at.
        labelled_target: Those that carry a label; None where there are none.
        epochs: How long the method will train.
    """

    source: Stream
    target: Batches
    labelled_target: Batches | None
    epochs: int

    @property
    def labelled(self) -> list[Stream]:
        """The streams that teach the labels: every domain's, in equal shares."""
        return [self.source, *([self.labelled_target] if self.labelled_target else [])]

    @property
    def steps_per_epoch(self) -> int:
        """Enough to show the larger domain once."""
        return steps_per_epoch([self.source, self.target])

    def progress(self, step: int) -> float:
        """Of training, in [0, 1)."""
        return step / (self.epochs * self.steps_per_epoch)


@dataclass(frozen=True)
class Seen:
    """What a classifier makes of one step's images.

    Attributes:
        source, target: Features (B, F) of either domain, or what `domain_adaptation.layer` gives; the
            source has as many rows as its stream gives.
        source_logits, target_logits: (B, C).
    """

    source: Tensor
    target: Tensor
    source_logits: Tensor
    target_logits: Tensor


# Of what was seen and the weight lambda now: the term of the loss, with lambda in it, and numbers to log.
Transfer = Callable[[Seen, float], tuple[Tensor, dict[str, float]]]


def check_domains(table: ImageTable) -> None:
    """Refuse a table without labelled source images or without target images to train on.

    Raises:
        GraftError: one of them is missing.
    """
    source = labelled_index(table, "train", "source")
    target = table.select(split=["train", "unlabeled"], domain="target")
    if not len(source) or not len(target):
        raise GraftError(
            "domain adaptation needs labelled source images and target images in training",
            "add images to data/source/train and data/target/unlabeled",
        )


def load_domains(table: ImageTable, model: Classifier, policy: Policy, params: DomainAdaptation) -> Domains:
    """Decode the training images of both domains.

    Raises:
        GraftError: there are no labelled source images, or no target images.
    """
    check_domains(table)
    # Mixing two images of one domain would tell a domain classifier which domain it is, and a
    # pseudo-label belongs to one image.
    unmixed = replace(policy, params=policy.params.model_copy(update={"mixup": 0.0, "cutmix": 0.0}))
    wanted = [
        labelled_index(table, "train", "source"),
        table.select(split=["train", "unlabeled"], domain="target"),
        labelled_index(table, "train", "target"),
    ]
    source, target, labelled_target = (
        domain_batches(
            table,
            index,
            model.config.preprocessing,
            unmixed,
            batch_size=params.batch_size,
            seed=params.seed + offset,
        )
        for offset, index in enumerate(wanted)
    )
    shown: Stream = source[0]
    if params.fourier:
        # A seed of its own: an image is not shown beside those that have its style.
        styles = replace(target[0], policy=None, seed=params.seed + len(wanted))
        shown = Restyled(source[0], styles, params.fourier)
    return Domains(shown, target[0], labelled_target[0] if labelled_target else None, params.epochs)


def aligning(
    model: Classifier,
    domains: Domains,
    transfer: Transfer,
    *,
    max_lambda: float,
    look: Compared | None = None,
) -> Loss:
    """L = CE(G_y(G_f(x)), y) + transfer(lambda_p), lambda_p growing from 0 to `max_lambda`.

    The first term is over labelled images, the target's included, the second over the source's and all
    of the target's. One pass over both domains: BatchNorm sees the mixture that it will be asked to serve.

    Args:
        model: The classifier.
        domains: The streams.
        transfer: The method's own term.
        max_lambda: Its weight at the end.
        look: Gives what the term compares; by default the trunk's features.
    """
    look = look or compared(model, None)[0]

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        strength = max_lambda * reversal(domains.progress(step))
        known, labels = draw(domains.labelled, step)
        unknown, _ = domains.target(step)
        compare, features = look(torch.cat([known, unknown]))
        logits = model.head(features).float()
        cut = len(known)
        label_loss = functional.cross_entropy(logits[:cut], labels)
        own = domains.source.share
        compare = compare.float()
        seen = Seen(compare[:own], compare[cut:], logits[:own], logits[cut:])
        term, logs = transfer(seen, strength)
        logs |= {
            "train_accuracy": accuracy(logits[:cut], labels),
            "label_loss": label_loss.item(),
            "lambda": strength,
        }
        return label_loss + term, logs

    return loss
