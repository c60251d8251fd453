"""How often each class comes in the target, from the answers of a classifier that knows the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.adaptation.evidence import Answers, Evidence

RESAMPLES = 100
STEPS = 200  # of expectation maximisation; it usually stops after some tens
STILL = 1e-7  # shares that move less have arrived


@dataclass(frozen=True)
class LabelShift:
    """Class shares of both domains; each float64 (C,).

    Attributes:
        shares: Estimated of the target; sum 1.
        source: Counted in the source; sum 1.
        low, high: 95 % bootstrap interval of `shares`, per class.
        distance: Total variation of `shares` from `source`: the part of the target's images that would
            have to change class, 0 to 1.
    """

    shares: np.ndarray
    source: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return {
            "shares": self.shares.tolist(),
            "source": self.source.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "distance": self.distance,
        }


def label_shift(evidence: Evidence, *, seed: int) -> LabelShift:
    """Estimate the target's class shares without its labels.

    It supposes that images of one class look alike in both domains, p(f | y) unchanged, and only the
    classes' shares differ. Between domains that look different this holds only as far as adaptation has
    made their features alike: before it the estimate mostly shows which class the target is mistaken for.

    Expectation maximisation of Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities", on calibrated answers (Alexandari et al. 2020, "Maximum Likelihood with Bias-Corrected
    Calibration is Hard-to-Beat at Label Shift Adaptation"). Lipton et al. 2018 solve the confusion
    matrix's equations instead; Garg et al. 2020 show that this forgets how sure each answer is, and with
    few images the solution has negative shares.

    A class without a source image is none that could be recognised: its share is 0.
    The interval resamples the target's images, and the source's within each class; with few images of a
    class it is too narrow (of drawn shares it held 95 % and more with 50 of each, 75 % with five). Where
    `source` is `learned`, calibration sees a surer classifier than the target meets, and corrects too
    little.

    Args:
        evidence: `source` and `target` are read: logits (N, C) with labels, and (M, C).
        seed: Of the resampling.

    Raises:
        ValueError: No source or no target images, or logits that are not finite.
    """
    known, labels, unknown = _sound(evidence)
    counts = np.bincount(labels, minlength=known.shape[1])
    present = np.flatnonzero(counts)
    known, unknown = known[:, present], unknown[:, present]
    of_present = np.searchsorted(present, labels)
    calibration = _calibrate(known, of_present, np.zeros(len(present) + 1))
    found = _estimate(known, unknown, calibration)
    generator, resampled = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        rows = _within_classes(of_present, generator)
        again = _calibrate(known[rows], of_present[rows], calibration)
        drawn = generator.integers(0, len(unknown), len(unknown))
        resampled.append(_estimate(known[rows], unknown[drawn], again))
    shares, low, high = (np.zeros(len(counts)) for _ in range(3))
    shares[present] = found
    low[present], high[present] = np.percentile(resampled, [2.5, 97.5], axis=0)
    source = counts / counts.sum()
    return LabelShift(shares, source, low, high, float(np.abs(shares - source).sum() / 2))


def _sound(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    answers: dict[str, Answers] = {"source": evidence.source, "target": evidence.target}
    for kind, each in answers.items():
        if not len(each.logits):
            raise ValueError(f"no {kind} images to estimate class shares from")
        if not np.isfinite(each.logits).all():
            raise ValueError(f"the classifier's answers to {kind} images are not finite")
    known, unknown = (each.logits.astype(np.float64) for each in answers.values())
    return known, evidence.source.labels, unknown


def _within_classes(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows (N,) drawn with replacement, of each class as many as it has."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return order[starts + generator.integers(0, np.repeat(counts, counts))]


def _calibrate(logits: np.ndarray, labels: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Bias-corrected temperature: log T and biases b, float64 (1 + K,), of softmax(logits / T + b).

    They minimise the cross-entropy summed over images plus half their own squares. That is a prior of
    deviation 1: it keeps T off 0 where no image is answered wrong, and b small where images are few.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    truth = np.eye(logits.shape[1])[labels]
    # log T bends the sum about N times as much as a bias does: in these units the problem is round.
    units = np.append(1 / np.sqrt(len(logits)), np.ones(logits.shape[1]))

    def objective(steps: np.ndarray) -> tuple[float, np.ndarray]:
        values = steps * units
        scaled = logits * np.exp(-values[0])
        logs = log_softmax(scaled + values[1:], axis=1)
        excess = np.exp(logs) - truth
        slope = np.append(-(excess * scaled).sum(), excess.sum(0)) + values
        return float(-(logs * truth).sum() + values @ values / 2), slope * units

    found = minimize(objective, start / units, jac=True, method="L-BFGS-B")
    calibration: np.ndarray = found.x * units
    return calibration


def _estimate(known: np.ndarray, unknown: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Shares q (K,) of the target from logits (N, K) and (M, K): where expectation maximisation rests.

    Each step is q_k <- mean over images of r_ik q_k / sum_l r_il q_l, with r_ik = p_ik / prior_k. The
    prior is the mean calibrated answer to the source, as Alexandari et al. advise. K imagined images,
    shared out as the source's, count with the target's: without them many classes and few images give
    shares that are mostly noise.
    """
    from scipy.special import softmax

    on_source, on_target = (
        softmax(each * np.exp(-calibration[0]) + calibration[1:], axis=1) for each in (known, unknown)
    )
    prior = on_source.mean(0)
    ratios, imagined = on_target / prior, len(prior)
    shares = prior
    for _ in range(STEPS):
        claimed = shares * (ratios.T @ (1 / (ratios @ shares)))  # images, summed over (M, K)
        before, shares = shares, (claimed + imagined * prior) / (len(ratios) + imagined)
        if np.abs(shares - before).max() < STILL:
            break
    return shares
