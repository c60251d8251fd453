"""What data_validation leaves for a person to read: one page, one picture, lists of files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from graft.files import write_json
from graft.images.decoding import decode
from graft.images.sheets import MOST_ROWS, contact_sheet, thumbnail
from graft.images.table import SPLITS

SAMPLES = 8  # per class and domain
NO_LABEL = "(no label)"
LISTED = 200  # broken files on the page; broken.csv has all
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data validation</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: .6rem 0 1.4rem }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .9rem .25rem 0; text-align: left;
  vertical-align: top }
th { color: #555; font-weight: 600 }
.number { text-align: right }
.passed { color: #14692f }
.critical { color: #b00020; font-weight: 600 }
.warning { color: #8a5a00; font-weight: 600 }
img { max-width: 100% }
code { font-size: .92em; word-break: break-all }
</style></head><body>
<h1>Data validation: {{ "passed" if summary.passed else "failed" }}</h1>
<p>{{ summary.files }} files in <code>{{ summary.folder }}</code> · {{ summary.rows }} images taken
· {{ summary.classes | length }} classes · data md5 <code>{{ summary.data_md5 }}</code></p>
{% if summary.notes %}<ul>{% for note in summary.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Rules</h2>
<table><tr><th></th><th>rule</th><th>observed</th><th>allowed</th><th></th></tr>
{% for rule in summary.rules %}<tr>
<td class="{{ "passed" if rule.passed else rule.severity }}">{{ "passed" if rule.passed else
("failed" if rule.severity == "critical" else "warning") }}</td>
<td>{{ rule.rule }}</td><td>{{ rule.observed }}</td><td>{{ rule.allowed }}</td>
<td>{{ "" if rule.passed else rule.fix }}</td></tr>
{% endfor %}</table>
<h2>Images taken</h2>
<table><tr>{% if summary.domains | length > 1 %}<th>domain</th>{% endif %}<th>class</th>
{% for split in splits %}<th class="number">{{ split }}</th>{% endfor %}</tr>
{% for row in counts %}<tr>{% if summary.domains | length > 1 %}<td>{{ row.domain }}</td>{% endif %}
<td>{{ row.label }}</td>
{% for split in splits %}<td class="number">{{ row[split] }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>Samples</h2>
<img alt="Sample images of each class" src="data:image/png;base64,{{ sheet }}">
{% if broken %}<h2>Left out: {{ left_out }} files</h2>
<table><tr><th>file</th><th>reason</th></tr>
{% for row in broken %}<tr><td><code>{{ row.path }}</code></td><td>{{ row.reason }}</td></tr>
{% endfor %}</table>
{% if left_out > broken | length %}<p>The rest is in broken.csv.</p>{% endif %}{% endif %}
<p>More: <a href="great_expectations/validation.html">the data docs of Great Expectations</a>,
<a href="validation.json">validation.json</a> (every number), <a href="broken.csv">broken.csv</a>.</p>
</body></html>
"""


def write_evidence(
    docs: Path,
    folder: Path,
    files: pd.DataFrame,
    taken: pd.DataFrame,
    summary: dict[str, Any],
    findings: dict[str, Any],
) -> None:
    """Write index.html (which stands alone), sheet.png, validation.json and broken.csv.

    Args:
        docs: An existing folder.
        folder: The data folder, for the samples.
        files: One row per file: path, and reason where it is left out.
        taken: One row per usable image: path, domain, split, label, sha256.
        summary: What `validate` returns.
        findings: Lists of files, by what was found about them.
    """
    broken = _left_out(files)
    broken.to_csv(docs / "broken.csv", index=False, lineterminator="\n")
    write_json(docs / "validation.json", {**summary, **findings, "broken_files": broken.to_dict("records")})
    contact_sheet(_samples(folder, taken), docs / "sheet.png")
    (docs / "index.html").write_text(_page(docs, taken, summary, broken), encoding="utf-8")


def failure_table(failed: list[dict[str, Any]], files: pd.DataFrame, most: int = 10) -> str:
    """The failed rules and the first files that are left out, as aligned text."""
    rules = [(rule["rule"], rule["observed"], rule["allowed"]) for rule in failed]
    text = _aligned([("rule", "observed", "allowed"), *rules])
    broken = _left_out(files)
    if len(broken):
        text += "\n" + _aligned([("file", "reason"), *broken.head(most).itertuples(index=False)])
    if len(broken) > most:
        text += f"\n  ... {len(broken)} files in all"
    return text


def _left_out(files: pd.DataFrame) -> pd.DataFrame:
    return files.loc[files["reason"].notna(), ["path", "reason"]]


def _aligned(lines: list[Any]) -> str:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*lines, strict=True)]
    padded = ("  ".join(str(c).ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"  {line}".rstrip() for line in padded)


def _page(docs: Path, taken: pd.DataFrame, summary: dict[str, Any], broken: pd.DataFrame) -> str:
    import jinja2

    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    sheet = base64.b64encode((docs / "sheet.png").read_bytes()).decode()
    counts = taken.assign(label=taken["label"].fillna(NO_LABEL)).groupby(["domain", "label", "split"]).size()
    table = counts.unstack(fill_value=0)
    rows = table.reset_index().to_dict("records")
    splits = [split for split in SPLITS if split in table]
    first = broken.head(LISTED).to_dict("records")
    return template.render(
        summary=summary, splits=splits, counts=rows, sheet=sheet, broken=first, left_out=len(broken)
    )


def _samples(folder: Path, taken: pd.DataFrame) -> list[tuple[str, list[Image.Image]]]:
    """For each domain and class the images of smallest sha256, which is as good as at random."""
    rows = []
    by_class = taken.assign(label=taken["label"].fillna(NO_LABEL)).groupby(["domain", "label"])
    for (domain, label), images in list(by_class)[:MOST_ROWS]:
        paths = images.sort_values(["sha256", "path"])["path"].head(SAMPLES)
        pictures = [thumbnail(decode((folder / path).read_bytes())) for path in paths]
        rows.append((f"{domain} {label} ({len(images)})".strip(), pictures))
    return rows
