"""Great Expectations: the rules as a suite, run over a frame of images, with its data docs.

It takes seconds to import, so only data_validation uses this, and imports it late.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from graft.images.rules import Rule

# Great Expectations' pages ask several servers for styles, scripts and a logo; ours must not.
REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*src=\"https?://[^>]*>|<footer>.*?</footer>"
    r"|background: url\('https?://[^;]*;",
    re.DOTALL,
)
HOME = re.compile(r'href="[./]*index\.html"')
SUITE = re.compile(r'href="[./]*expectations/images\.html')
STYLE = """<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: .5rem 0 }
td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }
h5, h6 { font-size: 1rem; margin: .8rem 0 .3rem }
.badge { background: #eee; border-radius: 4px; padding: 0 .35rem }
.alert { background: #f3f3f3; padding: .3rem .6rem }
.sticky { position: static }
.text-success, .fa-check-circle { color: #14692f }
.text-danger, .fa-times { color: #b00020 }
.fa-check-circle::before { content: "✓ passed" }
.fa-times::before { content: "✗ failed" }
.fa-exclamation-triangle::before { content: "! error" }
.card-header, .btn-group { display: none }
</style></head>"""


def check(frame: pd.DataFrame, suite: list[Rule], folder: Path) -> list[dict[str, Any]]:
    """Validate the frame, and write data docs to `folder`: validation.html and expectations.html.

    Returns:
        Per rule: rule, severity, passed, observed, allowed, fix.
    """
    results = _run(frame, suite, folder)
    return [
        {
            "rule": rule.name,
            "severity": rule.severity,
            "passed": bool(results[rule.name].success),
            "observed": _observed(results[rule.name], frame, rule),
            "allowed": rule.allowed,
            "fix": rule.fix,
        }
        for rule in suite
    ]


def _run(frame: pd.DataFrame, suite: list[Rule], folder: Path) -> dict[str, Any]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read while it is imported
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # else some 200 lines in Kubeflow's log
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    batch = context.data_sources.add_pandas("data_folder").add_dataframe_asset("images")
    expectations = [
        getattr(gx.expectations, rule.kind)(
            **rule.arguments,
            severity=rule.severity,
            meta={"rule": rule.name},
            notes=f"{rule.name}; if it fails: {rule.fix}",
        )
        for rule in suite
    ]
    definition = gx.ValidationDefinition(
        name="images",
        data=batch.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(gx.ExpectationSuite(name="images", expectations=expectations)),
    )
    checkpoint = gx.Checkpoint(
        name="data_validation", validation_definitions=[context.validation_definitions.add(definition)]
    )
    outcome = context.checkpoints.add(checkpoint).run(
        batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name="data_validation")
    )
    with TemporaryDirectory() as built:
        _build_docs(context, Path(built))
        _keep_pages(Path(built), folder)
    results: list[Any] = next(iter(outcome.run_results.values())).results
    return {dict(result.expectation_config.meta)["rule"]: result for result in results}


def _build_docs(context: Any, folder: Path) -> None:
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder),
        },
    }
    context.add_data_docs_site(site_name="data_docs", site_config=site)
    context.build_data_docs(site_names=["data_docs"])


def _keep_pages(built: Path, folder: Path) -> None:
    """The two pages that say something, under fixed names, with links between each other and up."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("validation", "expectations"):
        page = next((built / f"{name.rstrip('s')}s").rglob("*.html")).read_text(encoding="utf-8")
        page = HOME.sub('href="../index.html"', SUITE.sub('href="expectations.html', REMOTE.sub("", page)))
        page = page.replace("</head>", STYLE, 1)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")


def _observed(result: Any, frame: pd.DataFrame, rule: Rule) -> str:
    """What was found, in words: the value, or how many rows are unlike, with examples."""
    if result.exception_info.get("raised_exception"):
        return f"error: {result.exception_info.get('exception_message')}"
    found = result.result
    if "unexpected_count" in found:
        examples = ", ".join(dict.fromkeys(map(str, found.get("partial_unexpected_list") or [])))
        return f"{found['unexpected_count']} unlike: {examples}" if found["unexpected_count"] else "all"
    value = found.get("observed_value")
    if rule.kind == "ExpectColumnMeanToBeBetween" and value is not None:  # of a flag: a share
        total = frame[rule.arguments["column"]].notna().sum()
        return f"{round(value * total)} of {total} ({value:.1%})"
    if isinstance(value, list):
        return f"{len(value)}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
