"""The eight steps as plain functions of paths and parameters; they know no Kubeflow and no DVC."""
