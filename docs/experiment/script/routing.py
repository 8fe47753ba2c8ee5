"""What sending some requests up buys: accuracy by the share that is sent, for an order of sending and for thresholds."""

from __future__ import annotations

import numpy as np

GRID = np.linspace(0, 1, 101)


def by_share(first_up: np.ndarray, device_right: np.ndarray, cloud_right: np.ndarray) -> np.ndarray:
    """Accuracy at each share of GRID when requests go up in ascending order of `first_up`.

    Requests that the order does not tell apart go up as one: between, the curve is a line, which is what sending a
    random part of them gives on average.
    """
    order = np.argsort(first_up, kind="stable")
    gained = (cloud_right.astype(float) - device_right)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(first_up[order])), len(order) - 1)
    shares = np.concatenate([[0], last_of_ties + 1]) / len(order)
    gains = np.concatenate([[0], np.cumsum(gained)[last_of_ties]]) / len(order)
    return device_right.mean() + np.interp(GRID, shares, gains)


def random_by_share(device_right: np.ndarray, cloud_right: np.ndarray) -> np.ndarray:
    """Accuracy at each share of GRID when a random part goes up, on average."""
    return by_share(np.zeros(len(device_right)), device_right, cloud_right)


def oracle_by_share(device_right: np.ndarray, cloud_right: np.ndarray) -> np.ndarray:
    """Accuracy at each share of GRID when first goes up what the device gets wrong and the cloud right."""
    return by_share(device_right.astype(float) - cloud_right, device_right, cloud_right)


def area(curve: np.ndarray) -> float:
    """Under a curve over GRID."""
    return float(np.trapezoid(curve, GRID))


def captured(curve: np.ndarray, device_right: np.ndarray, cloud_right: np.ndarray) -> float:
    """The area between a curve and random sending, as a share of that between the oracle and random sending."""
    chance = area(random_by_share(device_right, cloud_right))
    return (area(curve) - chance) / (area(oracle_by_share(device_right, cloud_right)) - chance)


def gate(
    confidences: np.ndarray, threshold: float, device_right: np.ndarray, cloud_right: np.ndarray
) -> dict[str, float]:
    """What a policy with this threshold gives, beside random sending and the oracle at the same share."""
    # The device's answer counts where its confidence is above the threshold.
    up = confidences <= threshold
    share = up.mean()
    curves = {"random": random_by_share, "oracle": oracle_by_share}
    at_share = {name: np.interp(share, GRID, curve(device_right, cloud_right)) for name, curve in curves.items()}
    return {"share": share, "accuracy": np.where(up, cloud_right, device_right).mean(), **at_share}
