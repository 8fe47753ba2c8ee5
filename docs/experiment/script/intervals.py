"""Means over seeds, with intervals that do not pretend the seeds were independent."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student


def interval(values: np.ndarray, test_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis, and half the width of its 95 % interval.

    Every seed splits the same data, so training sets overlap and the plain standard error is too small. The variance
    is widened by n_test / n_train (C. Nadeau and Y. Bengio, Inference for the Generalization Error, 2003).
    """
    values = np.asarray(values, dtype=np.float64)
    seeds = len(values)
    ratio = test_share / (1 - test_share)
    spread = values.std(axis=0, ddof=1) if seeds > 1 else np.zeros(values.shape[1:])
    reach = student.ppf(0.975, seeds - 1) if seeds > 1 else 0.0
    return values.mean(axis=0), reach * np.sqrt(1 / seeds + ratio) * spread
