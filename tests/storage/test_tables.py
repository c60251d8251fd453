"""An image table that lies on S3 is read there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.__main__ import run
from graft.errors import GraftError
from graft.images.loading import load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.params import Data
from tests.storage.conftest import put, read
from tests.storage.proxy import Proxy

SIZES = Preprocessing(16, 18)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for number in range(60):
        place = folder / "data" / ("ant", "bee")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place)
    validate(folder / "data", Data(), folder / "images", folder / "docs")
    return read_table(folder / "images")


@pytest.fixture
def there(here: ImageTable, bucket: str) -> str:
    put(bucket, {f"run/images/{name}": content for name, content in read(Path(here.path)).items()})
    return f"s3://{bucket}/run/images"


def test_a_table_on_s3_is_the_one_that_was_put_there(here: ImageTable, there: str) -> None:
    table = read_table(there)
    assert (table.path, table.classes, table.data_md5) == (there, here.classes, here.data_md5)
    assert table.rows.equals(here.rows)
    index = here.select(split="train")[::-1]
    assert table.contents(index) == here.contents(index)
    pixels = (load_images(each, index, SIZES).pixels for each in (table, here))
    assert np.array_equal(*pixels)


def test_a_busy_server_is_asked_again(here: ImageTable, there: str, proxy: Proxy) -> None:
    for end in (".json", ".parquet"):
        proxy.faults[end] = ["busy", "busy"]
    assert read_table(there).rows.equals(here.rows)
    assert not any(proxy.faults.values())


def test_it_is_asked_as_often_as_the_environment_says(
    there: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.faults[".json"] = ["busy"]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(GraftError, match="is not a whole image table"):
        read_table(there)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "some")
    with pytest.raises(GraftError, match="'some'") as caught:
        read_table(there)
    assert "AWS_MAX_ATTEMPTS" in caught.value.fix


def test_a_step_takes_a_table_on_s3(
    here: ImageTable, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text("augmentation: {views: 1}\n")
    for name, place in (("here", str(here.path)), ("there", there)):
        views = str(tmp_path / name / "views")
        run("augmentation", ["--params", str(params), "--images", place, "--views", views])
    shards = [sorted((tmp_path / name / "views").glob("*.parquet")) for name in ("here", "there")]
    assert [a.read_bytes() for a in shards[0]] == [b.read_bytes() for b in shards[1]] != []


def test_what_is_no_table_names_the_address(bucket: str) -> None:
    with pytest.raises(GraftError, match=f"s3://{bucket}/nothing is not a whole image table"):
        read_table(f"s3://{bucket}/nothing")
