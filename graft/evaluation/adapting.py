"""What the report tells of domain adaptation: each state, who would have kept which, and what was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.evaluation import pictures
from graft.evaluation.findings import Findings
from graft.files import read_json

VALIDATORS = {
    "source_accuracy": "accuracy on the source",
    "entropy": "confidence (minus the entropy)",
    "information": "information: sure answers, all classes",
    "density": "soft neighbourhood density",
    "deep_embedded": "deep embedded validation",
    "clusters": "agreement of answers with clusters",
    "target_accuracy": "accuracy on the target's labelled validation images",
}


def adaptation(findings: Findings) -> dict[str, Any] | None:
    """The account of the adapted candidate with its figure; None where there is none, or an older one."""
    candidate = findings.candidates.get("adapted")
    if candidate is None or not (candidate.folder / "adaptation.json").is_file():
        return None
    account = read_json(candidate.folder / "adaptation.json")
    rows = [row for row in candidate.history if row.get("phase") == "adapt"]
    return {
        **account,
        "last": len(account["states"]) - 1,
        "validators": [_validator(account, name) for name in VALIDATORS if name in account["each"]],
        "shares": _shares(account),
        "figure": pictures.adaptation_figure(account["states"], rows, account["chosen"]),
    }


def _validator(account: Mapping[str, Any], name: str) -> dict[str, Any]:
    states: Sequence[Mapping[str, float]] = account["states"]
    state = account["each"][name]
    return {
        "name": VALIDATORS[name],
        "state": state,
        "start": states[0][name],
        "best": states[state][name],
        "kept": states[account["chosen"]][name],
        "differs": account["disagreement"][name],
    }


def _shares(account: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Estimated shares of the classes in the target, the most changed first."""
    shift = account["label_shift"]
    columns = zip(
        account["classes"], shift["source"], shift["shares"], shift["low"], shift["high"], strict=True
    )
    rows = [
        {"name": name, "source": source, "share": share, "low": low, "high": high}
        for name, source, share, low, high in columns
    ]
    return sorted(rows, key=lambda row: -abs(row["share"] - row["source"]))[:10]
