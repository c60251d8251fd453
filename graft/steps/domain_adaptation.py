"""Step: the classifier adapted to the target domain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.descriptions import skipped, write_skipped
from graft.files import write_json
from graft.params import DomainAdaptation, parse
from graft.progress import say


def run(
    *,
    domain_adaptation: Mapping[str, Any],
    images: Path,
    views: Path,
    probe: Path,
    fine_tuned: Path,
    adapted: Path,
    work: Path,
) -> None:
    """See components/domain_adaptation.py."""
    params = parse(DomainAdaptation, domain_adaptation, "params: domain_adaptation")
    if reason := _why_not(params, images):
        say(f"domain_adaptation: skipped, since {reason}")
        write_skipped(adapted, reason)
        return
    start = fine_tuned
    if reason := skipped(fine_tuned):
        say(f"domain_adaptation: from the probe, since {reason}")
        start = probe
    _adapt(params, images, views, start, adapted, work)


def _why_not(params: DomainAdaptation, images: Path) -> str | None:
    """Why there is nothing to do."""
    from graft.images.table import read_facts

    if params.method == "none":
        return "domain_adaptation.method is none"
    if len(read_facts(images)["domains"]) < 2:
        return "one domain: there is nothing to adapt to"
    return None


def _adapt(
    params: DomainAdaptation, images: Path, views: Path, start: Path, adapted: Path, work: Path
) -> None:
    from graft.adaptation import adapt
    from graft.backbones.classifier import load_classifier
    from graft.images.augmentation import policy, read_policy
    from graft.images.table import read_table
    from graft.steps.fine_tuning import save_trained
    from graft.training.device import best_device

    table = read_table(images)
    model = load_classifier(start).to(best_device())
    drawn = policy(read_policy(views), model.config.preprocessing)
    made = adapt(table, model, drawn, params, work=work)
    account = made.account
    chosen = f"state {account['chosen']} of {len(account['states']) - 1}: {account['reason']}"
    for note in account["notes"]:
        say(f"domain_adaptation: {note}")
    save_trained(made.model, made.history, adapted, method=params.method, chosen=chosen)
    write_json(adapted / "adaptation.json", account)
