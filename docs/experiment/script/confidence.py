"""How sure an answer is: the measures that `InferenceModel.spec.confidence` names, as tiering/src/confidence.rs has them."""

from __future__ import annotations

import numpy as np

METHODS = ("Probability", "Margin", "Entropy")


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities that the same scores give, divided by the temperature before the softmax."""
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities.astype(np.float64)) / temperature
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def confidence(method: str, probabilities: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """From 0 (all classes alike, or two at the top) to 1 (one class for certain), a value a row."""
    shares = tempered(probabilities, temperature)
    if method == "Probability":
        return shares.max(axis=1)
    if method == "Margin":
        second, first = np.sort(shares, axis=1)[:, -2:].T
        return first - second
    if method == "Entropy":
        logarithms = np.log(np.where(shares > 0, shares, 1))
        return 1 + (shares * logarithms).sum(axis=1) / np.log(shares.shape[1])
    raise ValueError(f"no method {method}")
