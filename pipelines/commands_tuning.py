"""The command `graft tune`."""

from __future__ import annotations

from pathlib import Path

import click


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
@click.option(
    "--data", default="data", show_default=True, type=click.Path(path_type=Path), help="Data folder."
)
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path))
@click.option("--study", "name", help="Its name.  [default: registry.model_name and the objective]")
@click.option(
    "--storage", metavar="URL", help="Optuna's database.  [default: sqlite:///RUNS/tuning/STUDY.db]"
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes here.")
@click.option(
    "-o",
    "--output",
    default="tuned.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Gets the best values, as an overlay of params.yaml.",
)
def tune(
    search_file: str,
    files: tuple[str, ...],
    overrides: tuple[str, ...],
    data: Path,
    runs: Path,
    name: str | None,
    storage: str | None,
    workers: int,
    output: Path,
) -> None:
    """Search params.yaml for values that raise a candidate's validation accuracy.

    The first trial is params.yaml as it is. The same command goes on with a study that was interrupted,
    and runs more trials where search.yaml asks for more. Test images play no part.

    With --storage postgresql+psycopg2://USER@HOST/DATABASE several machines can work on one study.

    \b
      graft tune --search recipes/search/fine_tuning.yaml --data data
      graft retrain --params params.yaml --params tuned.yaml --data data
    """
    from rich.console import Console

    from graft.params import read_params
    from pipelines.search import read_search
    from pipelines.tuning.results import results_page
    from pipelines.tuning.running import tune as run_study
    from pipelines.tuning.study import Tuning

    params = read_params(files or ["params.yaml"], overrides)
    search = read_search(search_file, params)
    name = name or f"{params.registry.model_name}-{search.settings.objective}"
    place = runs.absolute() / "tuning"
    tuning = Tuning(
        name=name,
        search=search,
        params=params,
        data=data.absolute(),
        folder=place / name,
        storage=storage or f"sqlite:///{place / name}.db",
        workers=workers,
    )
    study = run_study(tuning, output)
    Console().print(results_page(tuning, study, output), soft_wrap=True)


COMMANDS = (tune,)
