"""The command `graft tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from graft.params import Params
    from pipelines.search import Search


@click.command("tune")
@click.option(
    "--search",
    "search_file",
    default="recipes/search/fine_tuning.yaml",
    show_default=True,
    help="Keys and their values.",
)
@click.option(
    "--params", "files", multiple=True, type=click.Path(), help="params.yaml and overlays; later ones win."
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One override.")
@click.option("--data", default="data", show_default=True, help="Data folder; on Katib, its address.")
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path))
@click.option("--study", "name", help="Its name.  [default: registry.model_name and the objective]")
@click.option(
    "--storage", metavar="URL", help="Optuna's database.  [default: sqlite:///RUNS/tuning/STUDY.db]"
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes here; pods on Katib."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Gets the best values, as an overlay of params.yaml; on Katib, the Experiment.  [default: "
    "tuned.yaml, experiment.yaml]",
)
@click.option(
    "--on",
    "where",
    default="here",
    show_default=True,
    type=click.Choice(["here", "katib"]),
    help="Search here, or write an Experiment with which Katib searches on a cluster.",
)
@click.option("--image", metavar="NAME@sha256:...", help="On Katib; else cluster.image or GRAFT_IMAGE.")
@click.option("--allow-tag", is_flag=True, help="On Katib: take an image without digest.")
def tune(
    search_file: str,
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    data: str,
    runs: Path,
    name: str | None,
    storage: str | None,
    workers: int,
    output: Path | None,
    where: str,
    image: str | None,
    allow_tag: bool,
) -> None:
    """Search params.yaml for values that raise a candidate's validation accuracy.

    The first trial is params.yaml as it is. The same command goes on with a study that was interrupted,
    and runs more trials where search.yaml asks for more. Test images play no part.

    With --storage postgresql+psycopg2://USER@HOST/DATABASE several machines can work on one study.

    \b
      graft tune --search recipes/search/fine_tuning.yaml --data data
      graft retrain --params params.yaml --params tuned.yaml --data data
      graft tune --on katib --data s3://bucket/data --image graft-python@sha256:... -o experiment.yaml
    """
    from graft.params import read_params
    from pipelines.search import read_search

    params = read_params(files or ["params.yaml"], overrides)
    search = read_search(search_file, params)
    name = name or f"{params.registry.model_name}-{search.settings.objective}"
    if where == "katib":
        file = output or Path("experiment.yaml")
        _write_experiment(file, name, search, params, data, workers, _image(params, image, allow_tag))
        return
    from rich.console import Console

    from pipelines.tuning.results import results_page
    from pipelines.tuning.running import tune as run_study
    from pipelines.tuning.study import Tuning

    output = output or Path("tuned.yaml")
    place = runs.absolute() / "tuning"
    tuning = Tuning(
        name=name,
        search=search,
        params=params,
        data=Path(data).absolute(),
        folder=place / name,
        storage=storage or f"sqlite:///{place / name}.db",
        workers=workers,
    )
    study = run_study(tuning, output)
    Console().print(results_page(tuning, study, output), soft_wrap=True)


def _image(params: Params, image: str | None, allow_tag: bool) -> str:
    from pipelines.cluster import chosen_image, require_digest

    named = chosen_image(params, image)
    if not allow_tag:
        require_digest(named)
    return named


def _write_experiment(
    output: Path, name: str, search: Search, params: Params, data: str, parallel: int, image: str
) -> None:
    import yaml

    from graft.files import whole_file
    from pipelines.submitting import data_address
    from pipelines.tuning.katib import experiment

    made = experiment(name, search, params, data_address(data), image, parallel)
    with whole_file(output) as temporary:
        temporary.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    click.echo(f"{output}: kubectl apply --namespace NAMESPACE --filename {output}")
    click.echo("The namespace needs the label katib.kubeflow.org/metrics-collector-injection=enabled.")


COMMANDS = (tune,)
