"""The model card of a version (Mitchell et al. 2019): what it is, what it scored, what that cannot say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graft.params import Registry

ROWS = 40  # classes listed; of more, those recognised least
DESCRIPTION = 5000  # characters that MLflow keeps of a version's description
SPLITS = ("train", "val", "test", "unlabeled")


def card(
    model: Mapping[str, Any],
    decision: Mapping[str, Any],
    scores: Mapping[str, Any],
    table: Mapping[str, Any],
    lineage: Mapping[str, Any],
    params: Registry,
) -> str:
    """Markdown; the most important comes first, so that it can be cut.

    Args:
        model: The winner's model.json.
        decision, scores: As the evaluation wrote them.
        table: The image table's table.json.
        lineage: As `graft.registry.registration.register` takes it.
        params: The name and the intended use.
    """
    winner = str(decision["winner"])
    numbers = scores["candidates"][winner]
    sections = {
        "Intended use": [_plain(params.intended_use)],
        "Decision": _decision(decision),
        "Scores": _scores(winner, scores),
        "What these numbers cannot say": _limits(decision),
        "Method and backbone": _method(model, numbers),
        "Data": _data(table, decision),
        "Lineage": _lineage(model, table, lineage),
        "Calibration": _calibration(numbers),
        "Classes": _classes(numbers),
    }
    parts = [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items() if lines]
    return "\n\n".join([f"# {_plain(params.model_name)}", *parts]) + "\n"


def shortened(text: str, limit: int = DESCRIPTION) -> str:
    """The card's first sections, as many as fit into `limit` characters."""
    if len(text) <= limit:
        return text
    ending = "\n\nShortened; all of it is the run's artifact model_card.md.\n"
    whole, room = text.split("\n## "), limit - len(ending)
    kept = whole[0][:room]
    for section in whole[1:]:
        if len(kept) + len("\n## ") + len(section) > room:
            break
        kept += f"\n## {section}"
    return kept.rstrip() + ending


def _decision(decision: Mapping[str, Any]) -> list[str]:
    champion = decision.get("champion")
    instead = f", in place of version {_plain(champion['version'])}" if champion else ""
    lines = [f"Promoted{instead}." if decision["promote"] else "Not promoted."]
    # Two runs may decide at once; the registry has the last word.
    lines = [f"{lines[0]} The evaluation said so; the alias `champion` says what holds now.", ""]
    lines += [
        f"- {'passed' if reason['passed'] else '**failed**'} · {_plain(reason['text'])}"
        for reason in decision["reasons"]
    ]
    return lines


def _scores(winner: str, scores: Mapping[str, Any]) -> list[str]:
    models = dict(scores["candidates"])
    if scores.get("champion"):
        models["champion"] = scores["champion"]
    head = ["model", "accuracy", "95 %", "macro F1", "calibration error", "one image"]
    rows = [
        [
            f"**{_plain(name)}**" if name == winner else _plain(name),
            _percent(one["accuracy"]),
            _between(one),
            _percent(one["macro_f1"]),
            f"{one['calibration_error']:.3f}",
            f"{one['latency_ms']:.1f} ms",
        ]
        for name, one in models.items()
    ]
    held_out = [
        [_plain(part), str(one["images"]), _percent(one["accuracy"]), _between(one)]
        for part, one in models[winner].get("held_out", {}).items()
    ]
    said = f"On {models[winner]['images']} test images; in bold the model of this card."
    parts = ["", "Its accuracy on everything held out:", ""] if held_out else []
    more = _table(["images of", "number", "accuracy", "95 %"], held_out) if held_out else []
    return [said, "", *_table(head, rows), *parts, *more]


def _limits(decision: Mapping[str, Any]) -> list[str]:
    selection = decision.get("selection", {}).get("reason")
    said = [f"The winner was {selection}."] if selection else []
    return [f"- {_plain(each)}" for each in [*said, *decision.get("limits", []), *decision.get("notes", [])]]


def _method(model: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[str]:
    backbone, side = model["backbone"], model["backbone"]["preprocessing"]["input_size"]
    facts = {
        "method": model["method"],
        "chosen": model.get("chosen"),
        "backbone": f"{backbone['name']} ({backbone['provider']}), {side} x {side} pixels",
        "backbone's weights": backbone["weights"],
        "their sha256": backbone.get("sha256"),
        "parameters": f"{numbers['parameters']:,}".replace(",", " "),
        "size": f"{numbers['size_mib']:.1f} MiB",
    }
    return _facts(facts)


def _data(table: Mapping[str, Any], decision: Mapping[str, Any]) -> list[str]:
    names = [_plain(name) for name in table["classes"][:ROWS]] + ["…"] * (len(table["classes"]) > ROWS)
    rows = [
        [_plain(domain) or "all", *(str(counts.get(split, 0)) for split in SPLITS)]
        for domain, counts in table["counts"].items()
    ]
    facts = [f"- md5 of the data folder: {_plain(decision['data_md5'])}"]
    facts.append(f"- {len(table['classes'])} classes: {', '.join(names)}")
    return [*facts, "", *_table(["images", *SPLITS], rows)]


def _lineage(model: Mapping[str, Any], table: Mapping[str, Any], lineage: Mapping[str, Any]) -> list[str]:
    facts = {
        "git commit": lineage["git_commit"],
        "sha256 of the parameters": lineage["params_sha256"],
        "md5 of the data": table["data_md5"],
        "sha256 of the weights": model["weights_sha256"],
        "run": lineage.get("pipeline_run"),
    }
    return _facts(facts)


def _calibration(numbers: Mapping[str, Any]) -> list[str]:
    rows = [
        [str(int(images)), _percent(confidence), _percent(accuracy)]
        for images, confidence, accuracy in numbers.get("reliability", [])
        if images
    ]
    said = (
        f"Expected calibration error {numbers['calibration_error']:.3f}, Brier score {numbers['brier']:.3f}, "
        f"negative log-likelihood {numbers['nll']:.3f} nats."
    )
    return [said, "", *_table(["images", "it says", "it is right"], rows)] if rows else [said]


def _classes(numbers: Mapping[str, Any]) -> list[str]:
    everything = [row for row in numbers["per_class"] if row["support"]]
    shown = everything
    said = "Recall with its 95 % interval (Wilson)."
    if len(everything) > ROWS:
        shown = sorted(everything, key=lambda row: row["recall"])[:ROWS]
        said += f" The {ROWS} of {len(everything)} classes that are recognised least."
    rows = [
        [
            _plain(row["name"]),
            str(row["support"]),
            _percent(row["recall"]),
            _between(row, "recall"),
            _percent(row["precision"]),
        ]
        for row in shown
    ]
    return [said, "", *_table(["class", "images", "recall", "95 %", "precision"], rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]]


def _facts(facts: Mapping[str, Any]) -> list[str]:
    return [f"- {name}: {_plain(value)}" for name, value in facts.items() if value is not None]


def _plain(value: Any) -> str:
    """Text that Markdown and HTML take literally, on one line: class names may hold anything."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#$~])", r"\\\1", text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _between(one: Mapping[str, Any], what: str = "accuracy") -> str:
    return f"{100 * one[f'{what}_low']:.1f} to {100 * one[f'{what}_high']:.1f}"
