"""The report: findings laid out for one HTML file that stands alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graft.backbones.explanations import explain
from graft.errors import GraftError
from graft.evaluation import embedding, pictures
from graft.evaluation.adapting import adaptation
from graft.evaluation.candidates import BASELINE, CHAMPION
from graft.evaluation.comparison import Comparison
from graft.evaluation.findings import Findings
from graft.files import whole_file
from graft.images.canvas import thumbnail
from graft.progress import say

TITLES = {
    "probe": "linear probe",
    "fine_tuned": "fine-tuned",
    "adapted": "adapted",
    "scratch": "from scratch",
}
FAILURES = {
    "new_model": "the best candidate is this very model",
    "min_accuracy": "the best candidate's accuracy is too low",
    "gain": "no candidate gains enough",
    "gain_beyond_noise": "the gain is within noise",
    "beyond_chance": "so small a gain can be luck",
    "class_drop": "a class falls too far",
    "domain_drop": "a domain falls too far",
    "calibration": "the challenger's probabilities are too far off",
    "latency": "the challenger is too slow",
}
SPLITS = ("train", "val", "test", "unlabeled")


def write_report(path: Path, findings: Findings) -> None:
    """Render report.html.j2 with all pictures inside it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "title": title}
    html = environment.get_template("report.html.j2").render(contents(findings))
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def percent(share: float, digits: int = 1) -> str:
    """0.8125 -> "81.2 %"."""
    return f"{100 * share:.{digits}f} %"


def points(share: float) -> str:
    """0.05 -> "+5.0", a difference of percentages."""
    return f"{100 * share:+.1f}"


def title(name: str) -> str:
    """A step's name for people."""
    return TITLES.get(name, name.replace("_", " "))


def contents(findings: Findings) -> dict[str, Any]:
    """Everything the template shows."""
    winner = findings.winner
    return {
        "made": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "findings": findings,
        "winner": winner,
        "won": findings.scores[winner],
        "cost": findings.costs[winner],
        "champion": findings.champion,
        "judged": f"{findings.table.target} test".strip(),
        "verdict": verdict(findings),
        "ranking": sorted(findings.scores, key=lambda name: -findings.scores[name].accuracy),
        "tags": {name: tags(findings, name) for name in findings.scores},
        "forest": forest(findings.comparisons),
        "per_class": [row for row in findings.scores[winner].per_class if row.name in findings.table.classes],
        "champion_recall": _recalls(findings),
        "confusion": _confusion(findings),
        "reliability": pictures.reliability_figure(findings.scores[winner].reliability),
        "errors": worst_errors(findings),
        "domains": domains(findings),
        "adaptation": adaptation(findings),
        "curves": _curves(findings),
        "counts": _counts(findings),
        "limits": limits(findings),
    }


def verdict(findings: Findings) -> dict[str, str]:
    """The headline: what happens now, and the sentence under it."""
    name, champion = title(findings.winner), findings.champion
    failed = [FAILURES[rule.rule] for rule in findings.rules if not rule.passed]
    if findings.promote:
        instead = f", in place of version {champion.version}" if champion else ", the first one"
        return {"badge": "promote", "headline": f"The {name} model becomes champion{instead}"}
    stays = f"Champion version {champion.version} stays" if champion else "No model becomes champion"
    return {"badge": "keep", "headline": f"{stays}: {', '.join(failed)}"}


def tags(findings: Findings, name: str) -> list[str]:
    """Labels beside a model's name."""
    champion = findings.champion.version if findings.champion else ""
    roles = {
        "winner": name == findings.winner,
        "baseline": name == BASELINE,
        f"version {champion}": name == CHAMPION,
    }
    return [role for role, holds in roles.items() if holds]


def forest(comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    """The winner's paired differences, with the half-width of a scale that holds all intervals."""
    ends = [abs(end) for one in comparisons.values() for end in one.interval]
    return {"rows": comparisons, "scale": max([*ends, 0.05]) * 1.05}


def worst_errors(findings: Findings) -> list[dict[str, Any]]:
    """The winner's most confident wrong answers, the worst first, with their pictures."""
    judged = findings.judged
    probabilities = judged.probabilities[findings.winner]
    wrong = np.flatnonzero(~judged.right(findings.winner))
    order = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    order = order[: findings.params.worst_errors]
    images = findings.table.contents(judged.rows.index[order])
    looked = where_it_looked(findings, images) if findings.params.explain else [None] * len(images)
    return [
        {
            "picture": thumbnail(image),
            "looked": looked_at,
            "path": judged.rows["path"].iloc[i],
            "label": judged.classes[judged.labels[i]],
            "predicted": judged.classes[probabilities[i].argmax()],
            "probability": float(probabilities[i].max()),
            "of_label": float(probabilities[i, judged.labels[i]]),
        }
        for i, image, looked_at in zip(order.tolist(), images, looked, strict=True)
    ]


def where_it_looked(findings: Findings, images: Sequence[bytes]) -> list[str | None]:
    """Class-activation maps of the winner's answers as data URIs; None where its network has no map."""
    try:
        return [
            thumbnail(_png(picture))
            for picture in explain(findings.candidates[findings.winner].model, images)
        ]
    except GraftError as error:
        say(f"the report explains nothing: {error.problem}")
        return [None] * len(images)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def domains(findings: Findings) -> dict[str, Any] | None:
    """Both domains' features before adaptation and after; None with one domain or no candidate for it."""
    before = next((name for name in ("fine_tuned", "probe") if name in findings.candidates), None)
    shown = {"before": before, "after": "adapted" if "adapted" in findings.candidates else None}
    chosen = {when: name for when, name in shown.items() if name is not None}
    if len(findings.table.domains) < 2 or not chosen:
        return None
    params = findings.params
    index = embedding.sample(findings.table, seed=params.seed)
    target = (findings.table.rows.loc[index, "domain"] == findings.table.target).to_numpy()
    maps, apart = {}, {}
    for when, name in chosen.items():
        model = findings.candidates[name].model
        values = embedding.features(model, findings.table, index, batch_size=params.batch_size)
        heading = f"{when} adaptation ({title(name)})"
        maps[heading] = embedding.embed(values, seed=params.seed)
        apart[heading] = embedding.separability(values, target)
    figure = pictures.domains_figure(maps, target)
    return {"figure": figure, "apart": apart, "images": len(index), "both": len(chosen) == 2}


def limits(findings: Findings) -> list[str]:
    """What the numbers cannot say."""
    won = findings.scores[findings.winner]
    half = (won.interval[1] - won.interval[0]) / 2
    few = [row for row in won.per_class if 0 < row.support < 30]
    said = [
        f"{won.images} test images fix an accuracy to about ±{100 * half:.1f} points; smaller differences "
        "show only where two models are compared on the same images.",
        "Intervals cover the choice of test images, not the luck of training: another seed gives "
        "another model.",
        "Latency is one image from its encoded bytes to probabilities, on the machine that evaluated.",
    ]
    if few:
        smallest = min(row.support for row in few)
        said.append(
            f"{len(few)} of {len(findings.table.classes)} classes have fewer than 30 test images (the "
            f"smallest {smallest}): their rows are rough."
        )
    if findings.selection.split == "test":
        said.append("The winner was chosen on the images that judge it: its accuracy is a little high.")
    return said


def _recalls(findings: Findings) -> dict[str, float]:
    champion = findings.scores.get(CHAMPION)
    return {row.name: row.recall for row in champion.per_class if row.support} if champion else {}


def _confusion(findings: Findings) -> str:
    won = findings.scores[findings.winner]
    seen = (won.confusion.sum(axis=0) + won.confusion.sum(axis=1)) > 0
    names = [name for name, any_image in zip(findings.judged.classes, seen, strict=True) if any_image]
    return pictures.confusion_figure(won.confusion[np.ix_(seen, seen)], names)


def _curves(findings: Findings) -> dict[str, str]:
    figure: Callable[..., str | None] = pictures.curves_figure
    drawn = {name: figure(title(name), one.history) for name, one in findings.candidates.items()}
    return {name: svg for name, svg in drawn.items() if svg is not None}


def _counts(findings: Findings) -> list[dict[str, Any]]:
    rows = findings.table.rows
    kept = findings.table.select()
    return [
        {
            "domain": domain or "all",
            **{split: int(((rows["domain"] == domain) & (rows["split"] == split)).sum()) for split in SPLITS},
            "left_out": int((rows["domain"] == domain).sum() - (rows.loc[kept, "domain"] == domain).sum()),
        }
        for domain in findings.table.domains
    ]
