"""Scores of one state of a classifier that need no label of the target; of each, larger is better.

None is always right. Each docstring names the state that its score is known to prefer wrongly, which is
why several are asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graft.adaptation.distance import FOLDS
from graft.adaptation.evidence import Answers, Evidence

TEMPERATURE = 0.05  # of the soft neighbourhoods, as in the paper
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the domain classifier, on standardised features
LARGEST_LOG_RATIO = 20.0  # keeps density ratios finite
SAME = 1e-9  # part of the largest ratio: what varies less is rounding


def source_accuracy(evidence: Evidence) -> float:
    """Share of the source images (N, C) that are answered right, in [0, 1].

    Blind to the target: a classifier that fits the source alone scores as well as one that fits both.
    Where `evidence.source` is `learned`, it is the training accuracy.

    Raises:
        ValueError: No source images, or logits that are not finite.
    """
    return _accuracy(_sound(evidence.source, "source"))


def entropy(evidence: Evidence) -> float:
    """Minus the mean entropy of the answers p (N, C) to target images, in nats: in [-log C, 0].

    1/N sum_i sum_c p_ic log p_ic, as in Grandvalet & Bengio 2004, "Semi-supervised Learning by Entropy
    Minimization", and Morerio et al. 2018, who choose by it. It prefers whoever is surest, and so a
    classifier that has collapsed onto one class: see `information`.

    Raises:
        ValueError: No target images, or logits that are not finite.
    """
    return -_mean_entropy(_sound(evidence.target, "target").probabilities)


def information(evidence: Evidence) -> float:
    """Mutual information of target images and answers p (N, C), in nats: in [0, log C].

    H(1/N sum_i p_i) - 1/N sum_i H(p_i): sure of each image, and of many classes. Bridle et al. 1991,
    "Unsupervised Classifiers, Mutual Information and 'Phantom Targets'"; measured as a validator by
    Musgrave et al. 2022. Being sure and wrong in a balanced way scores as high as being right, and a
    target whose classes are unequally frequent is held against a classifier that says so.

    Raises:
        ValueError: No target images, or logits that are not finite.
    """
    shares = _sound(evidence.target, "target").probabilities
    gained = _mean_entropy(shares.mean(0, keepdims=True)) - _mean_entropy(shares)
    return max(0.0, gained)  # Jensen says it is not negative; rounding may


def density(evidence: Evidence) -> float:
    """Soft neighbourhood density of the answers p (N, C) to target images, in nats: in [0, log (N - 1)].

    Saito et al. 2021, "Tune it the Right Way": with u_i = p_i / |p_i| and
    d_ij = softmax over j != i of u_i . u_j / 0.05, the mean entropy of the rows d_i. It is high where
    every image has many others answered alike, and compares states on the same images only.

    It tells a sure classifier that splits classes from one that does not. It prefers one that runs
    classes together, most of all a collapsed one, or one that answers everything evenly: whether it
    rises from guessing to knowing is chance. 0 for fewer than three images: one neighbour is no choice.

    Raises:
        ValueError: No target images, or logits that are not finite.
    """
    from scipy.special import softmax

    shares = _sound(evidence.target, "target").probabilities
    if len(shares) < 3:
        return 0.0
    directions = shares / np.linalg.norm(shares, axis=1, keepdims=True)
    similarities = directions @ directions.T / TEMPERATURE
    np.fill_diagonal(similarities, -np.inf)
    return _mean_entropy(softmax(similarities, axis=1))


def deep_embedded(evidence: Evidence) -> float:
    """Minus the target error expected from source images: deep embedded validation.

    You et al. 2019, "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation": with
    0-1 losses l (N,) of source images and density ratios w (N,) of their features (N, F),
    w = p(target | f) / p(source | f) * source images / target images, the risk is
    mean(w l) + eta (mean(w) - 1) with eta = -cov(w l, w) / var(w): the control variate takes away what
    varies with w, whose mean is 1. The ratio is a logistic classifier's of `learned` against `target`. Its
    strength is cross-validated: where features are many, one that is too sure makes the risk senseless.

    It supposes that p(y | f) is the same in both domains: where target features moved towards another
    class's it sees no error, since the source images there are answered right. Where domains hardly
    overlap few source images carry all weight, and the estimate may leave [-1, 0]. Where weights
    do not vary, or a domain has fewer than five images, it is minus the error on the source.

    Where `evidence.source` is `learned`, losses and ratios are those of images learned from: both are too
    small, and the more so the longer a state has learned. It then compares alike states at best.

    Raises:
        ValueError: No source or target images, or logits or features that are not finite.
    """
    source = _sound(evidence.source, "source")
    learned, target = _sound(evidence.learned, "learned"), _sound(evidence.target, "target")
    losses = (source.logits.argmax(1) != source.labels).astype(np.float64)
    weights = _density_ratios(learned.features, target.features, source.features)
    if np.ptp(weights) <= SAME * weights.max():
        return -float(losses.mean())
    weighted = weights * losses
    swings = weights - weights.mean()
    slope = ((weighted - weighted.mean()) * swings).mean() / (swings**2).mean()
    return -float(weighted.mean() - slope * (weights.mean() - 1))


def clusters(evidence: Evidence) -> float:
    """Adjusted mutual information of the answers to target images with clusters of their features (N, F).

    As many k-means clusters of f / |f| as there are classes; 1 where answers are the clusters, about 0
    where they have nothing to do with them. ClassAMI of Musgrave et al. 2022, "Three New Validators and
    a Large-Scale Benchmark Ranking for Unsupervised Domain Adaptation". No method here is trained on it.

    Clusters carry no names: it prefers whoever answers every cluster alike, if wrong. 0 for a classifier
    that gives all images one class, and where there are fewer images than classes.

    Raises:
        ValueError: No target images, or logits or features that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score
    from sklearn.preprocessing import normalize

    target = _sound(evidence.target, "target")
    said, classes = target.logits.argmax(1), target.logits.shape[1]
    if len(said) < classes or len(np.unique(said)) == 1:
        return 0.0
    found = KMeans(classes, n_init=3, random_state=0).fit_predict(normalize(target.features))
    return float(adjusted_mutual_info_score(said, found))


def target_accuracy(evidence: Evidence) -> float:
    """Share of the labelled target images (N, C) that are answered right, in [0, 1].

    Raises:
        ValueError: There are no such images, or their logits are not finite.
    """
    if evidence.labelled is None:
        raise ValueError("no labelled target images to measure the accuracy on")
    return _accuracy(_sound(evidence.labelled, "labelled target"))


VALIDATORS: dict[str, Callable[[Evidence], float]] = {
    "source_accuracy": source_accuracy,
    "entropy": entropy,
    "information": information,
    "density": density,
    "deep_embedded": deep_embedded,
    "clusters": clusters,
    "target_accuracy": target_accuracy,
}


def scores(evidence: Evidence) -> dict[str, float]:
    """All of `VALIDATORS`, in their order; without target_accuracy where no target image is labelled.

    Raises:
        ValueError: A kind of images is empty, or some logits or features are not finite.
    """
    unknown = {"target_accuracy"} if evidence.labelled is None else set()
    return {name: validator(evidence) for name, validator in VALIDATORS.items() if name not in unknown}


def _sound(answers: Answers, kind: str) -> Answers:
    if not len(answers.logits):
        raise ValueError(f"no {kind} images to score the classifier on")
    if not (np.isfinite(answers.logits).all() and np.isfinite(answers.features).all()):
        raise ValueError(f"the classifier's answers to {kind} images are not finite")
    return answers


def _accuracy(answers: Answers) -> float:
    return float((answers.logits.argmax(1) == answers.labels).mean())


def _mean_entropy(shares: np.ndarray) -> float:
    """Mean over rows (N, K) of -sum p log p, in nats; a share of 0 adds nothing."""
    from scipy.special import entr

    return float(entr(shares).sum(1).mean())


def _density_ratios(source: np.ndarray, target: np.ndarray, at: np.ndarray) -> np.ndarray:
    """p(f | target) / p(f | source) at features (N, F), fitted on (S, F) and (T, F): float64 (N,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    if min(len(source), len(target)) < FOLDS:
        return np.ones(len(at))
    both = np.concatenate([source, target]).astype(np.float64)
    scale = StandardScaler().fit(both)
    search = GridSearchCV(
        LogisticRegression(max_iter=500),
        {"C": STRENGTHS},
        scoring="neg_log_loss",
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    ).fit(scale.transform(both), np.arange(len(both)) >= len(source))
    log_odds = search.decision_function(scale.transform(at.astype(np.float64)))
    return np.exp(np.clip(log_odds, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)) * len(source) / len(target)
