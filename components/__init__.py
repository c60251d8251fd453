"""Thin typed Kubeflow components, one file per step; the signature is the definition of the step."""
