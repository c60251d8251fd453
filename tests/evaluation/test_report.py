"""The report: one file that stands alone, safe against what names may hold, and complete."""

from __future__ import annotations

import html.parser
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.descriptions import write_skipped
from graft.evaluation import pictures
from graft.evaluation.candidates import Champion
from graft.evaluation.embedding import embed, separability
from graft.evaluation.evaluate import evaluate
from graft.files import write_json
from graft.images.table import ImageTable
from graft.params import Evaluation

EPOCHS = [
    {
        "phase": phase,
        "epoch": epoch,
        "loss": 1 / epoch,
        "val_loss": 1.1 / epoch,
        "val_accuracy": 0.7,
        "seconds": 2,
    }
    for phase in ("head", "all")
    for epoch in (1, 2, 3)
]
ACCOUNT = {
    "method": "dann",
    "states": [
        {"state": n, "source_accuracy": 0.9, "information": i} for n, i in enumerate((1.0, 1.5, 1.8, 1.9))
    ],
    "chosen": 2,
    "by": "vote",
    "reason": "best mean rank over two",
    "each": {"source_accuracy": 3, "information": 3},
    "disagreement": {"source_accuracy": 0.25, "information": 0.25},
    "distance": {"before": 1.9, "after": None},
    "label_shift": {
        "source": [0.5, 0.5, 0.0],
        "shares": [0.9, 0.1, 0.0],
        "low": [0.8, 0.0, 0.0],
        "high": [1.0, 0.2, 0.0],
        "distance": 0.4,
    },
    "classes": ["<i>left</i>", "middle", "right"],
    "notes": ["Validators disagree."],
}
STRENGTHS = [{"C": c, "val_accuracy": a, "val_loss": 1.0} for c, a in ((0.01, 0.5), (0.1, 0.6), (1.0, 0.4))]
VOID = {"meta", "img", "br", "link", "input", "hr", "source"}


class Page(html.parser.HTMLParser):
    """Collects addresses and text, and notices tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report(
    table: ImageTable, good: Classifier, poor: Classifier, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A report with everything in it."""
    room = tmp_path_factory.mktemp("report")
    chosen = {"chosen": "epoch 2 of 3, by accuracy on 12 validation images"}
    for name, model in (("probe", poor), ("fine_tuned", poor), ("adapted", good), ("scratch", poor)):
        said = chosen if name != "probe" else {}
        save_classifier(model, room / name, method=f"method of {name}", extra=said)
        told = ("path.json", STRENGTHS) if name == "probe" else ("history.json", EPOCHS)
        write_json(room / name / told[0], told[1])
    write_json(room / "adapted" / "adaptation.json", ACCOUNT)
    write_skipped(room / "pace", "needs <two> backbones")
    names = ("probe", "fine_tuned", "adapted", "scratch", "pace")
    out = {key: room / "out" / key for key in ("scores", "predictions", "decision", "winner", "report")}
    params = Evaluation(bootstrap=200, worst_errors=5, max_class_drop=1.0)
    evaluate(table.path, {name: room / name for name in names}, Champion("3", poor), params, **out)
    return out["report"].read_text(encoding="utf-8")


def test_the_report_stands_alone(report: str) -> None:
    page = Page(report)
    assert page.open == []
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in report
    assert not re.search(r"url\((?!#)", report)


def test_names_of_classes_cannot_become_markup_or_formulas(report: str) -> None:
    page = Page(report)
    assert "<i>left" not in report
    assert "&lt;i&gt;left&lt;/i&gt; &amp; $x_{" in report
    assert any("<i>left</i> & $x_{" in text for text in page.text)
    assert "needs &lt;two&gt; backbones" in report


def test_the_report_holds_what_was_promised(report: str) -> None:
    text = " ".join(" ".join(Page(report).text).split())
    for said in (
        "The adapted model becomes champion, in place of version 3",
        "90 held-out images (target test)",
        "The winner against the others",
        "McNemar p",
        "from scratch baseline",
        "12 labelled validation images of the target and 100 are needed",
        "Features of both domains, before and after adaptation",
        "before adaptation (fine-tuned):",
        "epoch 2 of 3, by accuracy on 12 validation images",
        "C = 0.1 of 3 strengths, by validation accuracy",
        "method of scratch",
        "pace left out needs <two> backbones",
        "md5 of the data folder: 0123456789abcdef0123456789abcdef",
        "What these numbers cannot say",
        "Method dann. Kept: state 2 of 3, best mean rank over two.",
        "information: sure answers, all classes 1.000 1.900 3 1.800 25 %",
        "before: 1.90 after: too few images",
        "Total variation from the source's shares: 40 %",
        "Validators disagree.",
        "target test 90 images",
    ):
        assert said in text
    assert (
        len(re.findall(r"<svg", report)) == 1 + 1 + 1 + 1 + 4
    )  # confusion, reliability, domains, adaptation, curves
    assert 1 <= len(re.findall(r'<img class="small"', report)) <= 5


@pytest.mark.parametrize(
    ("term", "shown"), [("confident", "share that teaches"), ("domain_loss", "domain loss")]
)
def test_the_figure_of_adaptation_shows_what_the_method_tells(term: str, shown: str) -> None:
    rows = [{"phase": "adapt", "epoch": n, "lambda": n / 3, term: 0.5} for n in (1, 2, 3)]
    said = pictures.adaptation_figure(ACCOUNT["states"], rows, 2)
    assert shown in said
    assert "lambda" in said
    others = {"share that teaches", "domain loss"} - {shown}
    assert not any(other in said for other in others)


def test_worst_errors_come_surest_first(report: str) -> None:
    found = re.findall(r"said <em>(.*?)</em> (\d+) %<br>is <b>(.*?)</b>", report)
    sure = [int(percent) for _, percent, _ in found]
    assert sure == sorted(sure, reverse=True)
    assert all(predicted != label for predicted, _, label in found)


def test_a_model_without_errors_history_or_baseline_still_gets_a_report(
    table: ImageTable, build_classifier: Any, tmp_path: Path, outputs: dict[str, Path]
) -> None:
    save_classifier(build_classifier(table, "target", 60), tmp_path / "fine_tuned", method="fine_tune")
    evaluate(table.path, {"fine_tuned": tmp_path / "fine_tuned"}, None, Evaluation(), **outputs)
    text = " ".join(" ".join(Page(outputs["report"].read_text()).text).split())
    assert "It made no error." in text
    assert "its record does not say" in text
    assert "Training" not in text
    assert "against the others" not in text


@pytest.mark.parametrize("count", [2, 10, 30, 100])
def test_figures_of_few_and_many_classes_are_svg(count: int) -> None:
    generator = np.random.default_rng(count)
    confusion = generator.integers(0, 3, (count, count)) + 20 * np.eye(count, dtype=int)
    names = ["_hidden", "$\\frac{", *(f"class <{i}>" for i in range(count - 2))]
    svg = pictures.confusion_figure(confusion, names)
    root = ElementTree.fromstring(svg)
    texts = ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")]
    assert "predicted class" in texts
    assert ("$\\frac{" in texts) == (count <= pictures.NAMES_UP_TO)
    assert len(svg) < 400_000


def test_the_same_numbers_draw_the_same_figure() -> None:
    first, second = (pictures.curves_figure("x", EPOCHS) for _ in range(2))
    assert first == second


def test_curves_live_with_gaps() -> None:
    diverged: list[dict[str, Any]] = [
        *EPOCHS,
        {"phase": "all", "epoch": 4, "diverged": "loss nan at step 3", "loss": float("nan")},
    ]
    assert pictures.curves_figure("x", diverged) is not None
    assert pictures.curves_figure("x", []) is None
    assert pictures.curves_figure("x", [{"phase": "all", "epoch": 1}]) is None


def test_domains_apart_and_together_are_told_from_each_other() -> None:
    generator = np.random.default_rng(0)
    features, target = generator.normal(size=(120, 16)), np.arange(120) % 2 == 0
    together = separability(features, target)
    apart = separability(features + 4 * target[:, None], target)
    assert together is not None
    assert apart is not None
    assert together < 0.65 < 0.95 < apart
    assert separability(features, np.arange(120) < 3) is None
    assert embed(features, seed=0).shape == (120, 2)
    assert embed(features[:4, :1], seed=0).shape == (4, 2)


def test_on_demand_each_error_shows_where_the_network_looked(
    table: ImageTable, poor: Classifier, tmp_path: Path
) -> None:
    save_classifier(poor, tmp_path / "probe", method="probe")
    names = ("scores", "predictions", "decision", "winner", "report")
    pages = []
    for explain in (False, True):
        out = {key: tmp_path / str(explain) / key for key in names}
        params = Evaluation(bootstrap=200, worst_errors=3, explain=explain)
        evaluate(table.path, {"probe": tmp_path / "probe"}, None, params, **out)
        pages.append(out["report"].read_text(encoding="utf-8"))
    assert [page.count('alt="where it looked"') for page in pages] == [0, 3]
