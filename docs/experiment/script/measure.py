"""What is measured of one trial, as a tree of numbers, and the same over all seeds, as means and intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

import complexity
import routing
from combine import COMBINATIONS, combined_labels
from confidence import METHODS, confidence
from intervals import interval
from sets import TIERS, Trial
from temperature import calibration_error, reliability

THRESHOLDS = [round(0.05 * step, 2) for step in range(20)] + [0.98, 0.99, 1.0]
# Where the answer says most of itself: probability of its class, raw, as most policies would be written.
PLAIN = 0.9
MISSING = {"all": (), "no device": ("device",), "no edge": ("edge",), "no cloud": ("cloud",)}


def measured(trial: Trial) -> dict[str, Any]:
    """Everything about one trial."""
    device, cloud = trial.right("device"), trial.right("cloud")
    oracle, chance = routing.oracle_by_share(device, cloud), routing.random_by_share(device, cloud)
    return {
        "accuracy": {tier: trial.right(tier).mean() for tier in TIERS},
        "oracle": {"accuracy": oracle.max(), "share": (~device & cloud).mean()},
        "curves": {"random": chance, "oracle": oracle},
        "methods": {method: of_method(trial, method, chance) for method in METHODS},
        "temperature": trial.temperature,
        "trust": {name: trust(trial, temperature) for name, temperature in temperatures(trial).items()},
        "complexity": of_complexity(trial),
        "ensemble": of_ensemble(trial),
        "weights": trial.weights,
    }


def temperatures(trial: Trial) -> dict[str, float]:
    """Without and with a temperature."""
    return {"raw": 1.0, "tempered": trial.temperature}


def of_method(trial: Trial, method: str, chance: np.ndarray) -> dict[str, Any]:
    """Curve, gain over random sending, captured share and gates of one method, without and with temperature."""
    device, cloud = trial.right("device"), trial.right("cloud")
    found = {}
    for name, temperature in temperatures(trial).items():
        sure = confidence(method, trial.probabilities["device"], temperature)
        curve = routing.by_share(sure, device, cloud)
        found[name] = {
            "curve": curve,
            "gain": curve - chance,
            "captured": routing.captured(curve, device, cloud),
            "gates": {f"{threshold:g}": routing.gate(sure, threshold, device, cloud) for threshold in THRESHOLDS},
        }
    return found


def trust(trial: Trial, temperature: float) -> dict[str, Any]:
    """How the probability of the device's answer compares with how often it is right."""
    sure, right = confidence("Probability", trial.probabilities["device"], temperature), trial.right("device")
    kept = sure > PLAIN
    counts, sums, rights = reliability(sure, right)
    return {
        "confidence": sure.mean(),
        "error": calibration_error(sure, right),
        "kept": kept.mean(),
        "kept confidence": sure[kept].mean(),
        "kept accuracy": right[kept].mean(),
        "bins": {"share": counts / len(sure), "confidence": sums / len(sure), "right": rights / len(sure)},
    }


def of_complexity(trial: Trial) -> dict[str, Any]:
    """How well each measure tells the device's errors from the rest, and the range of the entropy."""
    inputs, wrong = trial.inputs, ~trial.right("device")
    entropies = np.array([complexity.entropy(row) for row in inputs])
    measures = {
        "Entropy": entropies,
        "InputSize": complexity.input_size(inputs),
        "Expression": complexity.faint(inputs),
        "confidence": -confidence("Probability", trial.probabilities["device"]),
    }
    return {
        "auc": {name: complexity.auc(score, wrong) for name, score in measures.items()},
        "entropy": {"least": entropies.min(), "median": np.median(entropies), "greatest": entropies.max()},
    }


def of_ensemble(trial: Trial) -> dict[str, Any]:
    """Accuracy of each combination, with all members and without one, and how much better than the highest tier's."""
    found: dict[str, Any] = {}
    for name, missing in MISSING.items():
        members = [tier for tier in TIERS if tier not in missing]
        best = trial.right(members[-1]).mean()
        answers, weights = [trial.probabilities[tier] for tier in members], [trial.weights[tier] for tier in members]
        accuracies = {
            combination: (combined_labels(combination, answers, weights) == trial.labels).mean()
            for combination in COMBINATIONS
        }
        found[name] = {
            "accuracy": accuracies,
            "over highest": {combination: accuracy - best for combination, accuracy in accuracies.items()},
        }
    return found


def summarised(found: list[Any], test_share: float) -> Any:
    """The same tree with, for every number, its mean over the seeds and half its 95 % interval."""
    if isinstance(found[0], dict):
        return {key: summarised([tree[key] for tree in found], test_share) for key in found[0]}
    mean, half = interval(np.asarray(found), test_share)
    return np.stack([mean, half], axis=-1).round(4).tolist()
