"""search.yaml as an Experiment of Katib, which then does the searching on a cluster.

Katib chooses values (TPE, as Optuna does here), runs a pod for each trial, reads the scores that
`pipelines.tuning.katib_trial` prints, and stops trials that fall behind. It has no way to begin with
params.yaml as it is.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from graft.errors import GraftError
from graft.params import Params
from pipelines.chain import sections_of, steps_to
from pipelines.cluster import resources_of
from pipelines.search import Dimension, Search
from pipelines.tuning.katib_trial import LOSS, METRIC, PARAMS
from pipelines.tuning.pods import pod_spec

Json = dict[str, Any]

CONTAINER = "trial"
LONGEST_NAME = 40  # Katib adds to it for trials and their pods


def experiment(name: str, search: Search, params: Params, data: str, image: str, parallel: int) -> Json:
    """The Experiment.

    Args:
        name: The study's; letters, digits and dashes of it are kept.
        search: What is searched.
        params: Where it starts; section `cluster` gives the pods what it gives the candidate's step.
        data: An address, or a folder in the pods.
        image: Of the pods.
        parallel: Trials at a time.

    Raises:
        GraftError: a choice is a list or a mapping, which Katib cannot hand over.
    """
    settings = search.settings
    spec = {
        "objective": {
            "type": "maximize",
            "objectiveMetricName": METRIC,
            "additionalMetricNames": [LOSS],
            # The last line is the candidate's score; those before it are its epochs'.
            "metricStrategies": [{"name": each, "value": "latest"} for each in (METRIC, LOSS)],
        },
        "algorithm": {
            "algorithmName": "tpe",
            "algorithmSettings": [{"name": "random_state", "value": str(settings.seed)}],
        },
        "parallelTrialCount": min(parallel, settings.trials),
        "maxTrialCount": settings.trials,
        "maxFailedTrialCount": max(1, settings.trials // 2),
        "resumePolicy": "LongRunning",  # raise maxTrialCount later to go on
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "parameters": [_parameter(each) for each in search.dimensions],
        "trialTemplate": _template(search, params, data, image),
    }
    if settings.prune:
        spec["earlyStopping"] = _early_stopping(settings.prune_after_trials, settings.prune_after_epochs)
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": experiment_name(name)},
        "spec": spec,
    }


def experiment_name(study: str) -> str:
    """A study's name as Kubernetes takes names."""
    return re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:LONGEST_NAME].rstrip("-") or "study"


def parameter_name(key: str) -> str:
    """A key of params.yaml as Katib takes names."""
    return key.replace(".", "_")


def _early_stopping(trials: int, epochs: int) -> Json:
    wanted = {"min_trials_required": trials, "start_step": max(1, epochs)}
    settings = [{"name": name, "value": str(value)} for name, value in wanted.items()]
    return {"algorithmName": "medianstop", "algorithmSettings": settings}


def _parameter(each: Dimension) -> Json:
    if each.kind == "choice":
        space: Json = {"list": [_written(each, choice) for choice in each.choices]}
        return {"name": parameter_name(each.key), "parameterType": "categorical", "feasibleSpace": space}
    space = {"min": str(each.low), "max": str(each.high)}
    space["distribution"] = "logUniform" if each.log else "uniform"
    kind = "int" if each.kind == "int" else "double"
    return {"name": parameter_name(each.key), "parameterType": kind, "feasibleSpace": space}


def _written(each: Dimension, choice: Any) -> str:
    """A choice as text that `--set` reads back."""
    text = "null" if choice is None else str(choice)
    plain = re.fullmatch(r"[\w .:/@+-]*", text) is not None
    if not plain or (isinstance(choice, str) and yaml.safe_load(text) != choice):
        raise GraftError(
            f"search.yaml: {each.key}: Katib cannot hand over the choice {choice!r}",
            "search it with --on here, or give numbers and plain words",
        )
    return text


def _template(search: Search, params: Params, data: str, image: str) -> Json:
    steps = steps_to(search.settings.objective)
    resources = resources_of(params, steps[-1].name)
    command = ["python", "-m", "pipelines.tuning.katib_trial"]
    command += ["--objective", search.settings.objective, "--data", data, *_assignments(search.dimensions)]
    shell = ["sh", "-c", shlex.join(command)]  # Katib makes one line of it, and quotes nothing itself
    # As with `graft tune` here: the model trained from scratch is no candidate.
    sections = params.model_copy(
        update={"fine_tuning": params.fine_tuning.model_copy(update={"baseline": False})}
    ).sections()
    variables = {
        PARAMS: json.dumps({section: sections[section] for section in sections_of(steps)}),
        "GRAFT_IMAGE": image,
    }
    job: Json = {
        "backoffLimit": resources.retries.count or 0,
        "template": {
            "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},  # it would never end
            "spec": pod_spec(CONTAINER, image, shell, variables, resources),
        },
    }
    if resources.timeout_seconds is not None:
        job["activeDeadlineSeconds"] = resources.timeout_seconds
    return {
        "primaryContainerName": CONTAINER,
        "trialParameters": [
            {"name": parameter_name(each.key), "description": each.key, "reference": parameter_name(each.key)}
            for each in search.dimensions
        ],
        "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": job},
    }


def _assignments(dimensions: Sequence[Dimension]) -> list[str]:
    words = []
    for each in dimensions:
        words += ["--set", f"{each.key}=${{trialParameters.{parameter_name(each.key)}}}"]
    return words
