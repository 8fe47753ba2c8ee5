"""The temperature under which held-out labels are most likely, and how far confidence is from accuracy."""

from __future__ import annotations

import numpy as np

from confidence import tempered

GRID = np.round(np.geomspace(0.25, 4.0, 257), 6)
BINS = 10


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative logarithm of the probability of each row's own class."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-300)).mean())


def fitted_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature from 1/4 to 4, in steps of 1.1 %, with the least log loss."""
    return float(min(GRID, key=lambda temperature: log_loss(tempered(probabilities, temperature), labels)))


def reliability(confidences: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By tenth of confidence: how many answers, the sum of their confidence, and how many of them are right."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    return np.bincount(bins, minlength=BINS), np.bincount(bins, confidences, BINS), np.bincount(bins, right, BINS)


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over the tenths, each weighted with its answers (ECE)."""
    _, sums, rights = reliability(confidences, right)
    return float(np.abs(sums - rights).sum() / len(confidences))
