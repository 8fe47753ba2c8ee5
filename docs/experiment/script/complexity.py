"""How hard a request looks before anybody answers it: the measures of `TierPolicy.spec.complexity`."""

from __future__ import annotations

import numpy as np

BINS = 256


def entropy(values: np.ndarray) -> float:
    """Shannon entropy over equal bins between the least and the greatest, by 8 bits: as tiering/src/complexity.rs."""
    values = values.astype(np.float32).astype(np.float64)
    low, high = values.min(), values.max()
    if low == high:
        return 0.0
    bins = np.minimum((values - low) * (BINS / (high - low)), BINS - 1).astype(int)
    shares = np.bincount(bins) / len(values)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum() / np.log2(BINS))


def auc(score: np.ndarray, wrong: np.ndarray) -> float:
    """How often a request that is answered wrong scores above one that is answered right; ties count half."""
    values, codes, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    wrongs = int(wrong.sum())
    rights = len(wrong) - wrongs
    return float((ranks[wrong].sum() - wrongs * (wrongs + 1) / 2) / (wrongs * rights))


def input_size(inputs: np.ndarray) -> np.ndarray:
    """The bytes of a request's FP32 elements: the same for all requests of a model whose input has a fixed shape."""
    return np.full(len(inputs), 4.0 * inputs[0].size)


def faint(inputs: np.ndarray) -> np.ndarray:
    """1 for the half of the requests whose values vary least, else 0: what a caller could tell in a header."""
    spreads = inputs.std(axis=1)
    return (spreads < np.median(spreads)).astype(float)
