"""Clouds of points in two domains, and what linear classifiers answer to them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graft.adaptation.evidence import Answers, Evidence

CLASSES, WIDTH, RUNGS, IMAGES = 4, 8, 7, 250


def answers(
    logits: np.ndarray, labels: np.ndarray | None = None, features: np.ndarray | None = None
) -> Answers:
    """Features are the logits and labels -1 unless given."""
    logits = np.asarray(logits, np.float32)
    labels = np.full(len(logits), -1) if labels is None else np.asarray(labels)
    return Answers(logits if features is None else np.asarray(features, np.float32), logits, labels)


def to_target(logits: np.ndarray) -> Evidence:
    """Evidence where only the answers to the target matter."""
    source = answers([[1.0, 0.0]], [0])
    return Evidence(source, source, answers(logits), None)


def means(apart: float) -> np.ndarray:
    """Of the classes (C, F), on axes of their own; the other half of the features says nothing."""
    return apart * np.eye(CLASSES, WIDTH)


def state(
    centres: np.ndarray, weight: np.ndarray, bias: np.ndarray, target: np.ndarray, seed: int
) -> Evidence:
    """A linear classifier's answers to `IMAGES` of each kind; `target` (C, F) are its classes' means."""
    generator = np.random.default_rng(seed)

    def ask(at: np.ndarray) -> Answers:
        labels = generator.integers(0, CLASSES, IMAGES)
        features = at[labels] + generator.normal(size=(IMAGES, WIDTH))
        return answers(features @ weight + bias, labels, features)

    learned, source, labelled = ask(centres), ask(centres), ask(target)
    return Evidence(learned, source, answers(labelled.logits, None, labelled.features), labelled)


def from_guessing_to_knowing(seed: int) -> list[Evidence]:
    """From a random classifier to the best one, of equal scale; the target lies beside the source."""
    centres = means(2.5)
    best, bias = centres.T, -(centres**2).sum(1) / 2
    guess = np.random.default_rng(100 + seed).normal(size=best.shape)
    guess *= np.linalg.norm(best) / np.linalg.norm(guess)
    beside = centres + np.eye(WIDTH)[CLASSES]
    states = []
    for part in np.linspace(0, 1, RUNGS):
        weight = (1 - part) * guess + part * best
        weight *= np.linalg.norm(best) / np.linalg.norm(weight)
        states.append(state(centres, weight, part * bias, beside, seed))
    return states


def from_muddled_to_clear(seed: int) -> list[Evidence]:
    """One sure classifier; the target's classes go from nearly one place to where the source's are."""
    centres = means(3.0)
    middle = centres.mean(0)
    parts = np.linspace(0.2, 1, RUNGS)
    targets: Iterable[np.ndarray] = (middle + part * (centres - middle) for part in parts)
    return [state(centres, centres.T, -(centres**2).sum(1) / 2, target, seed) for target in targets]
