"""What the committed digits models should give when real agents serve them: e2e/tests/experiment.rs compares."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from combine import COMBINATIONS, combined_labels
from confidence import METHODS, confidence
from routing import gate
from sets import DIGITS, TIERS, answer, load

TEMPERATURES = (1.0, 0.8, 2.5)
THRESHOLDS = (0.5, 0.8, 0.9)
WEIGHTS = (1, 2, 4)


def reference() -> dict[str, Any]:
    """Confidences of the device on the clean test set by method and temperature, what gates make of it, ensembles."""
    test = json.loads((DIGITS / "data/digits-test.json").read_text())
    images, labels = np.array(test["images"]), np.array(test["labels"])
    answers = [answer(load((DIGITS / f"models/digits-{tier}.onnx").read_bytes()), images)[0] for tier in TIERS]
    device, _, cloud = answers
    device_right, cloud_right = (each.argmax(axis=1) == labels for each in (device, cloud))
    sure = confidence("Probability", device)
    gates = {f"{threshold:g}": gate(sure, threshold, device_right, cloud_right) for threshold in THRESHOLDS}
    return {
        "images": len(images),
        "right alone": {"device": int(device_right.sum()), "cloud": int(cloud_right.sum())},
        "gates": {
            threshold: {"sent up": round(found["share"] * len(images)), "right": round(found["accuracy"] * len(images))}
            for threshold, found in gates.items()
        },
        "ensembles": {
            combination: {
                "weights": WEIGHTS,
                "right": int((combined_labels(combination, answers, WEIGHTS) == labels).sum()),
                "right without cloud": int((combined_labels(combination, answers[:2], WEIGHTS[:2]) == labels).sum()),
            }
            for combination in COMBINATIONS
        },
        "confidences": [
            {
                "method": method,
                "temperature": temperature,
                "values": confidence(method, device, temperature).round(7).tolist(),
            }
            for method in METHODS
            for temperature in TEMPERATURES
        ],
    }
