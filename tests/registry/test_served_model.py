"""What the served model takes, and what it answers."""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from PIL import Image

import graft
from graft.registry.packaging import SERVED_MODEL, needed_modules, requirements
from graft.registry.trial import trial_images

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 40, 36, 3), dtype=np.uint8)
BROKEN: list[Any] = [b"", b"GIF89a...", b"not an image", "###", "", None, float("nan"), 3, [[1, 2], [3]], {}]


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


FILES = [encoded(each) for each in PIXELS]


@pytest.fixture(scope="module")
def folder(candidate: Callable[..., Path]) -> Path:
    return candidate()


@pytest.fixture(scope="module")
def served(folder: Path) -> Any:
    from graft.registry.served_model import ServedClassifier

    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))  # type: ignore[arg-type]
    return model


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    return graft.load(folder).predict(FILES)


def probabilities(answers: pd.DataFrame) -> np.ndarray:
    """(N, C), from the column `top`, in the order of the class names."""
    rows = [{each["label"]: each["probability"] for each in json.loads(top)} for top in answers["top"]]
    return np.array([[row[name] for name in sorted(row)] for row in rows])


def test_the_columns(served: Any, folder: Path, expected: np.ndarray) -> None:
    answers = served.predict(None, FILES)
    classes = graft.load(folder).classes
    assert list(answers.columns) == ["label", "probability", "top", "error"]
    assert list(answers["label"]) == [classes[best] for best in expected.argmax(1)]
    np.testing.assert_allclose(answers["probability"], expected.max(1), atol=1e-6)
    assert answers["probability"].dtype == float
    assert list(answers["error"]) == [None] * 5
    for top in answers["top"]:
        listed = [each["probability"] for each in json.loads(top)]
        assert len(listed) == 3
        assert listed == sorted(listed, reverse=True)


def test_every_kind_of_input_gives_the_same(served: Any, expected: np.ndarray, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, content in zip(paths, FILES, strict=True):
        path.write_bytes(content)
    text = [base64.b64encode(content).decode() for content in FILES]
    kinds: dict[str, Any] = {
        "bytes": FILES,
        "bytearrays": [bytearray(content) for content in FILES],
        "base64": text,
        "base64 in lines": [base64.encodebytes(content).decode() for content in FILES],
        "paths": paths,
        "paths as text": [str(path) for path in paths],
        "array": PIXELS,
        "list of arrays": list(PIXELS),
        "numbers, as JSON has them": PIXELS.tolist(),
        "pictures": [Image.fromarray(each) for each in PIXELS],
        "column of text": pd.DataFrame({"image": text}),
        "column of bytes": pd.DataFrame({"image": FILES}),
        "column of arrays": pd.DataFrame({"image": list(PIXELS)}),
    }
    for kind, images in kinds.items():
        answers = served.predict(None, images, {"top_k": 4})
        np.testing.assert_allclose(probabilities(answers), expected, atol=1e-6, err_msg=kind)


@pytest.mark.parametrize("length", [100, 300, 3000, 5000, 70000])
def test_base64_of_any_length_is_not_taken_for_a_path(served: Any, length: int) -> None:
    content = encoded(np.zeros((4, 4, 3), np.uint8))
    padded = base64.b64encode(content + b"\0" * length).decode()  # decoders stop at the end of the picture
    assert served.predict(None, [padded])["error"].tolist() == [None]


def test_greyscale(served: Any) -> None:
    grey = PIXELS[:, :, :, 0]
    one = served.predict(None, grey, {"top_k": 4})
    three = served.predict(None, np.repeat(grey[..., None], 3, axis=3), {"top_k": 4})
    also = served.predict(None, grey[..., None], {"top_k": 4})
    np.testing.assert_allclose(probabilities(one), probabilities(three), atol=1e-6)
    np.testing.assert_allclose(probabilities(one), probabilities(also), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "zero bytes"),
        (FILES[0][:200], "truncated"),
        (b"plain text", "text, not an image"),
        (b"GIF89a" + b"x" * 50, "GIF"),
        ("/no/such/file.png", "neither base64 nor the path of a file"),
        ("a\0b", "neither base64"),
        ("é" * 9000, "neither base64"),
        (None, "no image given"),
        (float("nan"), "no image given"),
        (7, "not integers"),
        (np.zeros((4, 4, 2), np.uint8), "not integers"),
        (np.zeros((0, 4, 3), np.uint8), "not integers"),
        (np.zeros((4, 4, 3), float), "not integers"),
        (np.full((4, 4, 3), 256), "not within 0 to 255"),
        (np.full((4, 4, 3), -1), "not within 0 to 255"),
        ([[1, 2], [3]], "cannot be used"),
        ({"url": "http://example"}, "not integers"),
    ],
)
def test_a_broken_image_spoils_its_row_only(
    served: Any, expected: np.ndarray, image: Any, reason: str
) -> None:
    answers = served.predict(None, [FILES[0], image, FILES[1]], {"top_k": 4})
    assert reason in answers["error"][1]
    assert answers.loc[1, ["label", "probability", "top"]].tolist() == [None, None, None]
    np.testing.assert_allclose(probabilities(answers.loc[[0, 2]]), expected[:2], atol=1e-6)
    json.loads(json.dumps(answers.to_dict("records"), allow_nan=False))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 4), st.sampled_from(range(-len(BROKEN), 0))), max_size=12))
def test_every_row_is_answered_as_if_it_were_alone(
    served: Any, expected: np.ndarray, which: list[int]
) -> None:
    images = [FILES[i] if i >= 0 else BROKEN[i] for i in which]
    answers = served.predict(None, images, {"top_k": 4})
    assert len(answers) == len(images)
    for i, (_, row) in zip(which, answers.iterrows(), strict=True):
        assert (row["error"] is None) == (i >= 0)
        if i >= 0:
            np.testing.assert_allclose(row["probability"], expected[i].max(), atol=1e-6)


def test_more_images_than_fit_a_chunk(served: Any, expected: np.ndarray) -> None:
    answers = served.predict(None, [FILES[i % 5] for i in range(600)])
    np.testing.assert_allclose(answers["probability"], expected.max(1)[np.arange(600) % 5], atol=1e-6)


def test_the_index_of_the_input_stays(served: Any) -> None:
    answers = served.predict(None, pd.DataFrame({"image": FILES}, index=[9, 7, 5, 3, 1]))
    assert list(answers.index) == [9, 7, 5, 3, 1]


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (4, 4), (100, 4)])
def test_top_k(served: Any, asked: int, given: int) -> None:
    top = served.predict(None, FILES[:1], {"top_k": asked})["top"][0]
    assert len(json.loads(top)) == given


def test_a_wrong_request_is_refused_as_a_whole(served: Any) -> None:
    with pytest.raises(MlflowException, match="top_k = 0") as caught:
        served.predict(None, FILES, {"top_k": 0})
    assert caught.value.get_http_status_code() == 400
    with pytest.raises(MlflowException, match="no column 'image', only \\['picture'\\]") as caught:
        served.predict(None, pd.DataFrame({"picture": FILES}))
    assert caught.value.get_http_status_code() == 400


def test_a_server_reads_no_files_for_its_clients(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.png").write_bytes(FILES[0])
    assert served.predict(None, [str(tmp_path / "secret.png")])["error"][0] is None
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    answers = served.predict(None, [str(tmp_path / "secret.png"), str(tmp_path / "absent.png")])
    assert set(answers["error"]) == {"not base64"}


def test_a_huge_image_is_refused_before_it_is_decoded(served: Any) -> None:
    content = encoded(np.zeros((9000, 9000), np.uint8))  # 80 kB of file, 81 million pixels
    assert "huge: 9000 x 9000" in served.predict(None, [content])["error"][0]


def test_trial_images_are_images_and_always_the_same() -> None:
    images = trial_images(32)
    assert images == trial_images(32)
    assert len(set(images)) == 4
    assert {Image.open(io.BytesIO(each)).mode for each in images} == {"RGB"}
    assert all(min(Image.open(io.BytesIO(each)).size) >= 1 for each in trial_images(1))


def test_the_shipped_code_is_complete_and_pinned() -> None:
    """What shipped code imports as it loads is either shipped itself, or pinned."""
    shipped = {SERVED_MODEL, *needed_modules(SERVED_MODEL)}
    names = {file.relative_to(Path(graft.__file__).parent).as_posix() for file in shipped}
    assert {"__init__.py", "backbones/classifier.py", "images/decoding.py", "errors.py"} <= names
    assert "registry/registration.py" not in names

    imported: set[str] = set()
    for node in (node for file in shipped for node in ast.parse(file.read_text()).body):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {str(node.module).split(".")[0]}
    foreign = {"pillow" if name == "PIL" else name for name in imported - sys.stdlib_module_names}
    assert foreign - {"graft"} == {line.partition("==")[0] for line in requirements("graft")}


def test_only_what_a_backbone_needs_is_required() -> None:
    def names(provider: str) -> set[str]:
        return {line.partition("==")[0] for line in requirements(provider)}

    assert names("torchvision") - names("graft") == {"torchvision"}
    assert names("timm") - names("graft") == {"torchvision", "timm"}
    assert not [line for line in requirements("timm") if "+" in line]
