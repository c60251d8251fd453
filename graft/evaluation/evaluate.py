"""Evaluation from end to end: measure, decide, write."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from graft.evaluation.candidates import CHAMPION, Champion
from graft.evaluation.findings import Findings, examine
from graft.evaluation.predictions import write_predictions
from graft.evaluation.report import limits, write_report
from graft.files import whole_file, whole_folder, write_json
from graft.images.table import read_table
from graft.params import Evaluation

SUMMARY = (
    "images",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "macro_f1",
    "calibration_error",
    "brier",
    "nll",
)


def evaluate(
    images: Path,
    candidates: Mapping[str, Path],
    champion: Champion | None,
    params: Evaluation,
    *,
    scores: Path,
    predictions: Path,
    decision: Path,
    winner: Path,
    report: Path,
    docs: Path | None = None,
) -> dict[str, Any]:
    """Judge every candidate and the champion on the same held-out images of the target domain.

    Args:
        images: The image table.
        candidates: Folders by step name; "scratch" is the baseline. Skipped ones are left out.
        champion: The model that serves now, or why it cannot be used; None where there is none.
        params: The gate's limits.
        scores, decision: JSON files to write: `scores_json`, and `decision_json`, which is returned.
        predictions: Parquet file to write, one row per test image and model.
        winner: Folder to write, a copy of the winning candidate's.
        report: HTML file to write; it stands alone.
        docs: Also gets the report, and the winner's answers as confusion.csv (actual, predicted).

    Raises:
        GraftError: the table is not whole or has no labelled test image, or there is no candidate.
    """
    findings = examine(read_table(images), candidates, champion, params)
    decided = decision_json(findings)
    write_json(scores, scores_json(findings))
    write_predictions(predictions, findings.judged)
    with whole_folder(winner) as temporary:
        shutil.copytree(findings.candidates[findings.winner].folder, temporary, dirs_exist_ok=True)
    write_report(report, findings)
    if docs is not None:
        _write_docs(docs, report, findings)
    write_json(decision, decided)
    return decided


def decision_json(findings: Findings) -> dict[str, Any]:
    """The decision with every reason.

    Keys: winner, promote, reasons (rules in order), selection, champion (None, or version and
    problem), comparison (winner against champion, or None), candidates (numbers by name), skipped
    (reasons by name), notes, limits (what the numbers cannot say), classes, data_md5.
    """
    champion = findings.champion
    compared = findings.comparisons.get(CHAMPION)
    return {
        "winner": findings.winner,
        "promote": findings.promote,
        "reasons": [rule.to_dict() for rule in findings.rules],
        "selection": vars(findings.selection),
        "champion": champion and {"version": champion.version, "problem": champion.problem},
        "comparison": compared and compared.to_dict(),
        "candidates": {name: _summary(findings, name) for name in findings.candidates},
        "skipped": dict(findings.skipped),
        "notes": findings.notes,
        "limits": limits(findings),
        "classes": list(findings.table.classes),
        "data_md5": findings.table.data_md5,
    }


def scores_json(findings: Findings) -> dict[str, Any]:
    """Every score, by model; numbers first, tables as lists."""
    return {
        "winner": findings.winner,
        "classes": list(findings.judged.classes),
        "candidates": {name: _all_scores(findings, name) for name in findings.candidates},
        "champion": _all_scores(findings, CHAMPION) if CHAMPION in findings.scores else None,
        "comparisons": {name: one.to_dict() for name, one in findings.comparisons.items()},
        "transfer": {name: one.to_dict() for name, one in findings.transfer.items()},
        "data_md5": findings.table.data_md5,
    }


def _summary(findings: Findings, name: str) -> dict[str, Any]:
    everything = findings.scores[name].to_dict()
    return {key: everything[key] for key in SUMMARY} | findings.costs[name].to_dict()


def _all_scores(findings: Findings, name: str) -> dict[str, Any]:
    held_out = {
        f"{domain} {split}".strip(): {key: part.to_dict()[key] for key in SUMMARY[:4]}
        for (domain, split), part in findings.parts[name].items()
    }
    tables = {**findings.scores[name].to_dict(), "reliability": findings.scores[name].reliability.tolist()}
    return tables | findings.costs[name].to_dict() | {"held_out": held_out}


def _write_docs(docs: Path, report: Path, findings: Findings) -> None:
    with whole_file(docs / "report.html") as temporary:
        shutil.copyfile(report, temporary)
    judged = findings.judged
    names = pd.Series(judged.classes)
    predicted = judged.probabilities[findings.winner].argmax(axis=1)
    answers = {"actual": names[judged.labels].to_numpy(), "predicted": names[predicted].to_numpy()}
    with whole_file(docs / "confusion.csv") as temporary:
        pd.DataFrame(answers).to_csv(temporary, index=False)
