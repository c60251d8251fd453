"""Step: the classifier adapted to the target domain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.adaptation import adapt
from graft.backbones.classifier import load_classifier, write_skipped
from graft.files import write_json
from graft.images.augmentation import policy, read_policy
from graft.images.table import read_table
from graft.params import DomainAdaptation, parse
from graft.progress import say
from graft.steps.fine_tuning import save_trained
from graft.training.device import best_device


def run(
    *,
    domain_adaptation: Mapping[str, Any],
    images: Path,
    views: Path,
    fine_tuned: Path,
    adapted: Path,
    work: Path,
) -> None:
    """See components/domain_adaptation.py."""
    params = parse(DomainAdaptation, domain_adaptation, "params: domain_adaptation")
    table = read_table(images)
    if len(table.domains) < 2:
        write_skipped(adapted, "one domain: there is nothing to adapt to")
        return
    model = load_classifier(fine_tuned).to(best_device())
    drawn = policy(read_policy(views), model.config.preprocessing)
    made = adapt(table, model, drawn, params, work=work)
    account = made.account
    chosen = f"state {account['chosen']} of {len(account['states']) - 1}: {account['reason']}"
    for note in account["notes"]:
        say(f"domain_adaptation: {note}")
    save_trained(made.model, made.history, adapted, method=params.method, chosen=chosen)
    write_json(adapted / "adaptation.json", account)
