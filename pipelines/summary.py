"""What a run ended with: one JSON for machines and one page of text for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from graft.files import read_json, write_json


def summarise(run: Path, failure: BaseException | None) -> dict[str, Any]:
    """Collect a run's records into `summary.json`.

    Keys: status (succeeded, failed or interrupted), run, problem, seconds, reused and failed steps,
    candidates with accuracy and interval, decision, registered version, data_md5.
    """
    records = sorted((read_json(path) for path in (run / "steps").glob("*.json")), key=lambda r: r["started"])
    decision = _read(run / "decision.json")
    summary = {
        "status": _status(failure),
        "run": run.name,
        "seconds": {record["step"]: record["seconds"] for record in records},
        "reused": [record["step"] for record in records if record["reused"]],
        "problem": next((r["problem"] for r in records if r["status"] == "failed"), _text(failure)),
        "candidates": decision.get("candidates", {}),
        "skipped": decision.get("skipped", {}),
        "decision": {key: decision[key] for key in ("winner", "promote", "reasons") if key in decision},
        "registered": _read(run / "registered.json"),
        "data_md5": decision.get("data_md5"),
    }
    write_json(run / "summary.json", summary)
    return summary


def _status(failure: BaseException | None) -> str:
    if failure is None:
        return "succeeded"
    return "interrupted" if isinstance(failure, KeyboardInterrupt) else "failed"


def _text(failure: BaseException | None) -> str | None:
    return None if failure is None else f"{type(failure).__name__}: {failure}"


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content


def summary_page(summary: dict[str, Any], run: Path) -> Group:
    """The candidates, the decision with its reasons, and where to look next, for a terminal."""
    return Group(_candidates(summary), *_skipped(summary), *_decision(summary), *_places(summary, run))


def _candidates(summary: dict[str, Any]) -> Table:
    table = Table(
        title="Candidates on the held-out test images (★ winner; ECE: calibration error)",
        title_justify="left",
    )
    for column in ("candidate", "accuracy", "95 % interval", "macro F1", "ECE", "one image"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    winner = summary["decision"].get("winner")
    for name, scores in summary["candidates"].items():
        table.add_row(
            f"{name} ★" if name == winner else name,
            f"{100 * scores['accuracy']:.1f} %",
            f"{100 * scores['accuracy_low']:.1f} to {100 * scores['accuracy_high']:.1f}",
            f"{scores['macro_f1']:.3f}",
            f"{scores['calibration_error']:.3f}",
            f"{scores['latency_ms']:.1f} ms",
            style="bold" if name == winner else "",
        )
    return table


def _skipped(summary: dict[str, Any]) -> list[Text]:
    return [Text(f"{name} was skipped: {reason}", style="dim") for name, reason in summary["skipped"].items()]


def _decision(summary: dict[str, Any]) -> list[Text]:
    decision, registered = summary["decision"], summary["registered"]
    superseded = registered.get("superseded")
    promoted = decision.get("promote") and not superseded
    verdict = "promoted to champion" if promoted else "not promoted"
    lines = [Text(f"\nDecision: {decision.get('winner')} is {verdict}", style="bold")]
    for reason in decision.get("reasons", []):
        mark, style = ("✓", "green") if reason["passed"] else ("✗", "red")
        lines.append(Text(f"  {mark} {reason['text']}", style=style))
    if superseded:
        lines.append(Text(f"  ✗ {superseded['reason']}\n    {superseded['fix']}", style="red"))
    if registered:
        aliases = ", ".join(registered["aliases"]) or "no alias"
        known = ", already registered before" if registered.get("reused") else ""
        text = f"Registered: {registered['name']} version {registered['version']} ({aliases}){known}"
        lines.append(Text(text))
    return lines


def _places(summary: dict[str, Any], run: Path) -> list[Text]:
    lines = [
        Text(f"Report:     {run / 'report.html'}"),
        Text(f"Data docs:  {run / 'data' / 'index.html'}"),
        Text(f"MLflow:     {summary['registered'].get('tracking_uri')}   (make ui shows it)"),
        Text(f"Summary:    {run / 'summary.json'}"),
    ]
    total = sum(summary["seconds"].values())
    reused = f", {len(summary['reused'])} of them reused" if summary["reused"] else ""
    return [*lines, Text(f"{len(summary['seconds'])} steps in {total:.0f} s{reused}")]
