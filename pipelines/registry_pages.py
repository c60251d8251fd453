"""What the registry's commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """Indented JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_move(done: Mapping[str, Any]) -> None:
    """Where an alias went, in one line."""
    if not done["moved"]:
        click.echo(f"version {done['to']} of {done['name']} is champion already; nothing was changed")
    else:
        click.echo(f"champion of {done['name']}: {done['from'] or 'none'} → {done['to']}")


def print_checks(result: Mapping[str, Any]) -> None:
    """What `verify` found, and the verdict."""
    marks = {True: "✓", False: "✗", None: "–"}
    for check in result["checks"]:
        click.echo(f"{marks[check['passed']]} {check['check']}: {check['text']}")
    verdict = "is the model that was registered" if result["passed"] else "is NOT what was registered"
    click.echo(f"{result['name']} version {result['version']} {verdict}")


def print_table(
    title: str, columns: tuple[str, ...], rows: list[list[str]], styles: Sequence[str] = ()
) -> None:
    """A table as wide as the terminal; `styles` by row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*row, style=styles[number] if styles else "")
    Console().print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """What `trace_model` found, a line each."""
    decision = facts["decision"] or {}
    against = (decision.get("champion") or {}).get("version") or "none"
    lines = {
        "model": f"{facts['name']} version {facts['version']} ({', '.join(facts['aliases']) or 'no alias'})",
        "method": facts["method"],
        "data md5": facts["data_md5"],
        "git commit": facts["git_commit"],
        "params sha256": facts["params_sha256"],
        "backbone sha256": facts["backbone_sha256"],
        "weights sha256": facts["weights_sha256"],
        "run": f"{facts['run_id']} ({facts['run']})",
        "origin": ", ".join(f"{key} {value}" for key, value in facts["origin"].items()),
        "seconds": ", ".join(f"{step} {seconds:g}" for step, seconds in facts["step_seconds"].items()),
        "scores": ", ".join(f"{name} {value:.4f}" for name, value in facts["metrics"].items()),
        "decision": f"promote: {decision.get('promote')}, against champion version {against}",
        "missing": ", ".join(facts["missing"]),
    }
    for name, value in lines.items():
        if value:
            click.echo(f"{name + ':':16} {value}")
    for reason in decision.get("reasons") or []:
        click.echo(f"{'':16} {'✓' if reason['passed'] else '✗'} {reason['text']}")
    click.echo(f"{'params:':16} {len(facts['params'])} values")
    for name, value in facts["params"].items():
        click.echo(f"{'':16} {name} = {value}")


def model_row(row: Mapping[str, Any]) -> list[str]:
    """Of `graft models`."""
    accuracy = "?" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
    data = (row["data_md5"] or "?")[:8]
    aliases = ", ".join(row["aliases"])
    return [
        row["version"],
        aliases,
        row["method"] or "?",
        accuracy,
        data,
        _age(row["age_seconds"]),
        row["origin"] or "",
    ]


def print_ledger(found: Mapping[str, Any]) -> None:
    """Of `graft history`: one paragraph per move, since reasons are sentences."""
    print(f"{found['name']}: champion is {found['champion'] or 'none'}")
    for entry in found["entries"]:
        when = entry["when"][:19].replace("T", " ")
        moved = f"{entry['from'] or 'none'} → {entry['to']}"
        note = f" ({entry['note']})" if entry["note"] else ""
        outcome = entry["outcome"] or "under way or cut off"
        print(f"\n#{entry['number']}  {when}  {entry['action']}  {moved}  {outcome}{note}")
        run = entry["evidence"].get("run_id")
        print(f"    by  {entry['who']}" + (f", evidence in run {run}" if run else ""))
        print(f"    why {entry['why']}")
    for note in found["notes"]:
        print(f"note: {note}")


def seen_row(row: Mapping[str, Any]) -> list[str]:
    """Of `graft trace --data`."""
    commit = (row["git_commit"] or "?")[:12]
    return [
        row["name"],
        row["version"],
        ", ".join(row["aliases"]),
        row["data_md5"],
        commit,
        row["run_id"] or "",
    ]


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
