"""The image's Dockerfile, as text. That it builds and runs is for tests/pipelines/test_docker.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "infra" / "images"
TARGETS = ("cpu", "cuda")


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments on one line."""
    text = (FOLDER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (one.partition(" ") for one in joined.splitlines())
    ]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """What each stage begins from, and its instructions, in the file's order."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            found[name] = (parent, [])
        elif found:
            found[name][1].append((word, rest))
    return found


def lineage_of(target: str) -> list[tuple[str, str]]:
    """All instructions behind a stage, the first ones first."""
    parent, own = stages()[target]
    return [*(lineage_of(parent) if parent in stages() else []), *own]


def given(target: str, word: str) -> list[str]:
    return [rest for one, rest in lineage_of(target) if one == word]


def variables(target: str) -> dict[str, str]:
    pairs = " ".join(given(target, "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


def test_every_stage_stands_on_the_base_argument_alone() -> None:
    defaults = [rest for word, rest in instructions()[:1] if word == "ARG"]
    assert defaults == ["BASE=python:3.11-slim-bookworm"]
    for name, (parent, _) in stages().items():
        assert parent == "${BASE}" or parent in list(stages())[: list(stages()).index(name)]
    assert {parent for parent, _ in stages().values() if parent not in stages()} == {"${BASE}"}


def test_no_base_is_called_latest() -> None:
    assert not [rest for word, rest in instructions() if word in ("FROM", "ARG") and "latest" in rest]


@pytest.mark.parametrize("target", TARGETS)
def test_the_user_is_a_number_and_not_root(target: str) -> None:
    (user,) = given(target, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert stages()[target][1][-1] == ("USER", user)


def test_the_user_is_the_one_of_the_manifests() -> None:
    manifest = (ROOT / "infra" / "kubernetes" / "base" / "serving.yaml").read_text()
    (user,) = set(re.findall(r"runAsUser: (\d+)", manifest))
    assert given("cpu", "USER") == [f"{user}:{user}"]


@pytest.mark.parametrize("target", TARGETS)
def test_labels_say_what_it_is(target: str) -> None:
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.(\S+)="([^"]*)"', " ".join(given(target, "LABEL")))
    )
    assert labels["revision"] == "${COMMIT}"
    assert labels["version"] == "${VERSION}"
    assert labels["base.name"] == "${BASE}"
    assert labels["title"] == "graft"
    own = [rest.partition("=")[0] for word, rest in stages()[target][1] if word == "ARG"]
    assert {"BASE", "COMMIT", "VERSION"} <= set(own)  # an argument ends with its stage


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_written_outside_tmp(target: str) -> None:
    places = variables(target)
    for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME"):
        assert (places[name] + "/").startswith("/tmp/"), name
    assert places["PYTHONDONTWRITEBYTECODE"] == "1"
    assert given(target, "WORKDIR") == ["/tmp"]
    assert not given(target, "VOLUME")


@pytest.mark.parametrize("target", TARGETS)
def test_what_builds_is_not_in_what_runs(target: str) -> None:
    assert not given(target, "RUN")  # all was installed in other stages
    copied = given(target, "COPY")
    assert [re.fullmatch(r"--from=(\S+) (\S+) \2", one).groups() for one in copied] == [  # type: ignore[union-attr]
        (f"{target}-environment", "/opt/graft"),
        (f"{target}-code", "/opt/graft/code"),
    ]
    assert not {"/opt/tools", "/source"} & set(" ".join(copied).split())


def test_both_kinds_are_made_the_same_way_but_for_torchs_index() -> None:
    def steps(target: str) -> list[str]:
        named = [f"{word} {rest}" for word, rest in lineage_of(f"{target}-code")]
        return [one for one in named if not one.startswith("ARG TORCH_INDEX")]

    assert steps("cpu") == steps("cuda")
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in lineage_of("cpu-environment")
    assert ("ARG", "TORCH_INDEX=https://pypi.org/simple") in lineage_of("cuda-environment")


def test_every_stage_that_installs_has_its_own_index() -> None:
    for name, (_, own) in stages().items():  # an argument ends with its stage
        if any(word == "RUN" and "install.sh" in rest for word, rest in own):
            assert ("ARG", "INDEX=https://pypi.org/simple") in own, name


def test_nothing_is_fetched_but_through_pip_from_an_index() -> None:
    text = "\n".join(f"{word} {rest}" for word, rest in instructions())
    text += (FOLDER / "install.sh").read_text()
    assert not re.search(r"^ADD\b", text, re.MULTILINE)
    assert not re.search(r"\b(curl|wget|git clone|apt-get|apt)\b", text)
    assert set(re.findall(r"https?://[^/\s]+", text)) == {"https://pypi.org", "https://download.pytorch.org"}
    installs = re.findall(r"\$pip install (.*)", text)
    assert len(installs) == 3
    for one in installs:
        assert re.search(r'--index-url "\$(TORCH_)?INDEX"', one), one


def test_no_secret_is_named() -> None:
    for word, rest in instructions():
        if word in ("ARG", "ENV"):
            assert not re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY", rest, re.IGNORECASE), rest
        assert not re.search(r"https?://[^/\s]*@", rest), rest


def test_versions_are_those_of_the_lock() -> None:
    text = (FOLDER / "install.sh").read_text()
    assert 'PIP_CONSTRAINT="$PWD/requirements.txt"' in text
    lock = (ROOT / "requirements.txt").read_text()
    assert (
        len(re.findall(r"^(?:torch|torchvision)==[\d.]+$", lock, re.MULTILINE)) == 2
    )  # what install.sh looks for


def test_the_context_holds_code_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!README.md",
        "!pyproject.toml",
        "!requirements.txt",
        "!graft",
        "!components",
        "!pipelines",
        "!infra/images/install.sh",
    }


def built(*variables: str) -> str:
    """The commands of `make images`."""
    done = subprocess.run(
        ["make", "--dry-run", "images", *variables], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.replace("\\\n", " ")


def test_make_images_names_commit_and_base() -> None:
    text = built("BASE=base@sha256:00", "INDEX=https://mirror.example.org/simple", "COMMIT=" + "a1" * 20)
    assert "--build-arg BASE=base@sha256:00" in text
    assert "--build-arg INDEX=https://mirror.example.org/simple" in text
    assert "TORCH_INDEX" not in text  # the Dockerfile knows which
    assert f"--build-arg COMMIT={'a1' * 20}" in text
    assert "--build-arg VERSION=0." in text
    tags = re.findall(r"--tag (\S+)", text)
    assert [tag for tag in tags if tag.startswith("graft-python:a1a1a1a1a1a1")]
    assert "graft-python:latest" in tags
    assert "infra/images/sbom-cpu.json" in text


def test_the_image_for_gpus_has_names_of_its_own() -> None:
    cpu, cuda = (set(re.findall(r"--tag (\S+)", built(f"TARGET={target}"))) for target in TARGETS)
    assert not cpu & cuda
    assert "--target cuda" in built("TARGET=cuda")


def test_the_list_of_parts_is_not_kept_in_git() -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "infra/images/sbom-cpu.json"], cwd=ROOT, check=False)
    assert done.returncode in (0, 128)  # 128: no repository here
