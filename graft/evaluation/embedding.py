"""The features of both domains on one page: do they overlap?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from graft.adaptation.distance import told_apart
from graft.backbones.classifier import Classifier
from graft.images.loading import load_images
from graft.images.table import ImageTable

PER_DOMAIN = 250  # images: enough to see a cloud, few enough for a second of t-SNE


def sample(table: ImageTable, *, seed: int) -> pd.Index:
    """At most `PER_DOMAIN` images of each domain, held-out ones where the domain has any."""
    generator = np.random.default_rng(seed)
    chosen = []
    for domain in table.domains:
        held_out = table.select(split=["test", "val"], domain=domain)
        index = held_out if len(held_out) else table.select(domain=domain)
        chosen.append(generator.choice(index.to_numpy(), min(PER_DOMAIN, len(index)), replace=False))
    return pd.Index(np.sort(np.concatenate(chosen)))


def features(model: Classifier, table: ImageTable, index: pd.Index, *, batch_size: int) -> np.ndarray:
    """The trunk's features of some images, float32 (N, F), each of mean 0 and deviation 1."""
    images = load_images(table, index, model.config.preprocessing)
    values = model.features_pixels(images.pixels, batch_size).numpy()
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)


def embed(features: np.ndarray, *, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008) of (N, F) on its first principal components: (N, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count, width = features.shape
    reduced = PCA(min(30, count, width), random_state=seed).fit_transform(features)
    if reduced.shape[1] < 2 or count < 10:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    perplexity = min(30.0, (count - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=400, random_state=seed)
    # Its thousands of tiny parallel loops crawl as soon as another process wants the same cores.
    with threadpool_limits(1):
        return tsne.fit_transform(reduced)


def separability(features: np.ndarray, target: np.ndarray) -> float | None:
    """How often a linear classifier tells the domains apart, as balanced accuracy over five folds.

    0.5 is what guessing gives: the domains overlap. Ben-David et al. 2007 measure the distance between
    domains so. None where a domain has fewer than five images.
    """
    return told_apart(features, target, seed=0)
