"""Data and weights that lie elsewhere: on S3, and in DVC remotes on S3."""
