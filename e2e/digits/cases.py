"""Verification cases: requests of the Open Inference Protocol and the outputs that a model must answer with."""

import json

import numpy as np

from contract import answer, load

BATCHES = (1, 4, 16)
# How far the first class must be ahead of the second, so that no rounding changes a label.
LEAST_MARGIN = 0.2
DECIMALS = 6


def cases(model: bytes, images: np.ndarray) -> bytes:
    """One case for each batch size, made of the first test images whose label is clear."""
    session = load(model)
    clear = images[margins(answer(session, images)[0]) >= LEAST_MARGIN]
    written, start = [], 0
    for batch in BATCHES:
        written.append(json.dumps(case(session, clear[start : start + batch]), separators=(",", ":")))
        start += batch
    return ('{"cases":[\n' + ",\n".join(written) + "\n]}\n").encode()


def margins(probabilities: np.ndarray) -> np.ndarray:
    """The first class's lead over the second."""
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    return first - second


def case(session, images: np.ndarray) -> dict:
    """A request for these images, and the answer to it."""
    probabilities, labels = answer(session, images)
    rounded = [round(value, DECIMALS) for value in probabilities.ravel().tolist()]
    return {
        "inputs": [tensor("image", "FP32", images.shape, images.ravel().tolist())],
        "outputs": [
            tensor("probabilities", "FP32", probabilities.shape, rounded),
            tensor("label", "INT64", labels.shape, labels.tolist()),
        ],
    }


def tensor(name: str, datatype: str, shape: tuple[int, ...], data: list) -> dict:
    """A tensor of the protocol's JSON."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def difference(committed: bytes, expected: bytes) -> float:
    """The greatest distance between expected probabilities; infinite where anything else differs."""
    ours, theirs = json.loads(committed)["cases"], json.loads(expected)["cases"]
    probabilities = [
        np.array([value for case in side for value in case["outputs"][0].pop("data")]) for side in (ours, theirs)
    ]
    if ours != theirs or probabilities[0].shape != probabilities[1].shape:
        return float("inf")
    return float(np.abs(probabilities[0] - probabilities[1]).max())
