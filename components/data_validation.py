"""Data validation: a folder of images becomes the image table."""

from kfp.dsl import Artifact, Dataset, Output

from components.base import component


@component
def data_validation(data: dict, folder: str, images: Output[Dataset], docs: Output[Artifact]) -> None:
    """Decode every image, split, find duplicates and leaks, and hold the table to its expectations.

    Args:
        data: The section `data` of params.yaml.
        folder: The data folder, or an s3:// address of one.
        images: The image table, as Parquet.
        docs: Great Expectations data docs, a sheet of samples and the list of broken files.
    """
    from graft.steps.data_validation import run

    run(data=data, folder=folder, images=images.path, docs=docs.path)
