"""Data validation: a folder of images becomes the image table."""

from kfp.dsl import Artifact, Dataset, Output

from components.base import component


@component
def data_validation(data: dict, folder: str, images: Output[Dataset], docs: Output[Artifact]) -> None:
    """Decode every image, split, find duplicates and leaks, and hold the table to its expectations.

    Args:
        data: The section `data` of params.yaml.
        folder: The data folder: a path; s3://bucket/prefix, objects laid out as one; or a version in a
            DVC remote, dvc+s3://bucket/prefix?md5=<32 hexadecimal digits>.dir with the md5 in data.dvc.
        images: The image table, as Parquet.
        docs: Great Expectations data docs, a sheet of samples and the list of broken files.
    """
    from graft.steps import run

    run(
        "data_validation",
        settings={"data": data},
        inputs={"folder": folder},
        outputs={"images": images.path, "docs": docs.path},
    )
