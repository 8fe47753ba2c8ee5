"""Trains the digits models and writes all that belongs to them beside itself; README.md says what and why.

`train.py --check` trains again, writes nothing, and exits 1 where the committed files are not what it would write.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import compare
from bad_inputs import bad_inputs
from cases import cases
from classifiers import CLASSIFIERS
from dataset import split, to_json, variants
from report import checksums, entropy_line, measured, with_measured

HERE = Path(__file__).parent
FOLDERS = ("models", "cases", "data", "bad")
DEVICE_MODEL = "models/digits-device.onnx"
README = "README.md"
CHECKSUMS = "SHA256SUMS"


def train_models(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """The models' files by path."""
    models = {}
    for name, classifier in CLASSIFIERS.items():
        started = time.monotonic()
        models[f"models/{name}.onnx"] = classifier.train(images, labels)
        print(f"trained {name} in {time.monotonic() - started:.1f} s", flush=True)
    return models


def image_sets(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """The test set and its corrupted variants by path."""
    suffixes = {name: "" if name == "clean" else f"-{name}" for name in variants(images)}
    return {
        f"data/digits-test{suffixes[name]}.json": to_json(changed, labels) for name, changed in variants(images).items()
    }


def derived(models: dict[str, bytes], images: np.ndarray) -> dict[str, bytes]:
    """Cases, bad inputs and checksums by path: whatever follows from the models' files."""
    files = {
        path.replace("models/", "cases/").replace(".onnx", ".json"): cases(model, images)
        for path, model in models.items()
    }
    files |= {f"bad/{name}": content for name, content in bad_inputs(models[DEVICE_MODEL]).items()}
    files[CHECKSUMS] = checksums(models | files)
    return files


def write_all() -> None:
    """Trains and writes everything."""
    images, test_images, labels, test_labels = split()
    models = train_models(images, labels)
    files = models | image_sets(test_images, test_labels) | derived(models, test_images)
    table = measured(files, test_images, test_labels)
    readme = (HERE / README).read_text()
    files[README] = with_measured(readme, table).encode()
    for path, content in files.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_bytes(content)
    print(f"\n{table}\n\nwrote {len(files)} files, {sum(map(len, files.values())):,} bytes")


def check_all() -> list[str]:
    """Trains again and returns what is wrong with the committed files."""
    images, test_images, labels, test_labels = split()
    trained = train_models(images, labels)
    expected_sets = image_sets(test_images, test_labels)
    names = {*trained, *expected_sets, *derived(trained, test_images)}
    committed = {path: (HERE / path).read_bytes() for path in names if (HERE / path).is_file()}
    found = {str(path.relative_to(HERE)) for folder in FOLDERS for path in (HERE / folder).glob("*")} | {CHECKSUMS}
    faults = [f"{path} is missing" for path in sorted(names - found)]
    faults += [f"{path} is not written by train.py" for path in sorted(found - names)]
    for path, model in trained.items():
        if path in committed:
            faults += compare.same_model(path, committed[path], model, test_images, test_labels)
    for path, content in expected_sets.items():
        faults += compare.same_bytes(path, committed.get(path, b""), content)
    return faults
