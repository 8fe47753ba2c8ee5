"""What `train.py --check` holds the committed files to. Every function returns faults, or an empty list."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import cases
from bad_trials import EXPECTED, trial
from classifiers import WEIGHT_GRID
from report import accuracies

ACCURACY_TOLERANCE = 0.006
WEIGHT_TOLERANCE = 2 * WEIGHT_GRID
CASES_TOLERANCE = 1e-5


def same_names(root: Path, folders: tuple[str, ...], expected: set[str]) -> list[str]:
    """Every file is there, and none too many in the folders."""
    missing = [path for path in expected if not (root / path).is_file()]
    present = {f"{folder}/{file.name}" for folder in folders for file in (root / folder).glob("*")}
    return [f"{path} is missing" for path in sorted(missing)] + [
        f"{path} is not written by train.py" for path in sorted(present - expected)
    ]


def same_bytes(path: str, committed: bytes, expected: bytes) -> list[str]:
    """For files that no machine may write differently."""
    return [] if committed == expected else [f"{path} is not what train.py writes"]


def same_model(path: str, committed: bytes, trained: bytes, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """The same bytes, or the same graph with close weights and close accuracies."""
    if committed == trained:
        return []
    try:
        (ours, our_weights), (theirs, their_weights) = without_weights(committed), without_weights(trained)
    except Exception as error:
        return [f"{path} is no ONNX file: {error}"]
    if ours != theirs:
        return [f"{path} has another graph than train.py writes"]
    faults = []
    for name, weights in our_weights.items():
        difference = np.abs(weights.astype(np.float64) - their_weights[name]).max()
        if difference > (WEIGHT_TOLERANCE if weights.dtype == np.float32 else 0):
            faults.append(f"{path}: {name} differs by up to {difference:g} from what training gives")
    trained_accuracies = accuracies(trained, images, labels)
    for variant, accuracy in accuracies(committed, images, labels).items():
        if abs(accuracy - trained_accuracies[variant]) > ACCURACY_TOLERANCE:
            faults.append(f"{path}: accuracy on {variant} is {accuracy:.1%}, trained {trained_accuracies[variant]:.1%}")
    if not faults:
        print(f"{path}: other bytes, weights within {WEIGHT_TOLERANCE:.4f}, accuracies within {ACCURACY_TOLERANCE:.1%}")
    return faults


def without_weights(model: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model's graph with the contents of its constants taken out, and those contents."""
    parsed = onnx.load_model_from_string(model)
    weights = {constant.name: numpy_helper.to_array(constant) for constant in parsed.graph.initializer}
    for constant in parsed.graph.initializer:
        constant.ClearField("raw_data")
    return parsed.SerializeToString(deterministic=True), weights


def same_cases(path: str, committed: bytes, expected: bytes) -> list[str]:
    """The same bytes, or probabilities that differ by rounding only."""
    if committed == expected:
        return []
    try:
        difference = cases.difference(committed, expected)
    except (json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        return [f"{path} is no file of cases: {error!r}"]
    if difference > CASES_TOLERANCE:
        return [f"{path} is not what its model answers"]
    print(f"{path}: other bytes, probabilities within {CASES_TOLERANCE:g}")
    return []


def bad_inputs_do_harm(folder: Path) -> list[str]:
    """Every bad input does what it is named for, and the device model does not."""
    faults = []
    for path, expected in EXPECTED.items():
        outcome = trial(folder / path)
        print(f"{path}: {outcome}")
        if outcome != expected:
            faults.append(f"{path} {outcome}; expected that it {expected}")
    return faults
