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
from report import checksums, measured, with_measured

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
    """What follows from the models' files, by path: cases and bad inputs."""
    files = {
        path.replace("models/", "cases/").replace(".onnx", ".json"): cases(model, images)
        for path, model in models.items()
    }
    return files | {f"bad/{name}": content for name, content in bad_inputs(models[DEVICE_MODEL]).items()}


def write_all() -> None:
    """Trains and writes everything."""
    images, test_images, labels, test_labels = split()
    models = train_models(images, labels)
    files = models | derived(models, test_images) | image_sets(test_images, test_labels)
    tables = measured(files, test_images, test_labels)
    files[CHECKSUMS] = checksums(files)
    files[README] = with_measured((HERE / README).read_text(), tables).encode()
    for path, content in files.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_bytes(content)
    print(f"\n{tables}\n\nwrote {len(files)} files, {sum(map(len, files.values())):,} bytes")


def faults_of_committed() -> list[str]:
    """Trains again and says what is wrong with the committed files."""
    images, test_images, labels, test_labels = split()
    models = train_models(images, labels)
    expected = models | derived(models, test_images) | image_sets(test_images, test_labels)
    if faults := compare.same_names(HERE, FOLDERS, {*expected, CHECKSUMS, README}):
        return faults
    committed = {path: (HERE / path).read_bytes() for path in expected}
    for path, model in models.items():
        faults += compare.same_model(path, committed[path], model, test_images, test_labels)
    if faults:
        return faults
    identical = sum(committed[path] == content for path, content in expected.items())
    print(f"{identical} of {len(expected)} files are byte for byte what training gives here")

    # From here on against what follows from the committed models: they may be other bytes than those trained here.
    committed_models = {path: committed[path] for path in models}
    for path, content in (derived(committed_models, test_images) | image_sets(test_images, test_labels)).items():
        same = compare.same_cases if path.startswith("cases/") else compare.same_bytes
        faults += same(path, committed[path], content)
    faults += compare.same_bytes(CHECKSUMS, (HERE / CHECKSUMS).read_bytes(), checksums(committed))
    readme = (HERE / README).read_text()
    up_to_date = with_measured(readme, measured(committed, test_images, test_labels))
    faults += compare.same_bytes(README, readme.encode(), up_to_date.encode())
    return faults + compare.bad_inputs_do_harm(HERE)


def main() -> int:
    """Writes, or checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    if not parser.parse_args().check:
        write_all()
        return 0
    faults = faults_of_committed()
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    if faults:
        print("to write the files again: make digits", file=sys.stderr)
        return 1
    print("the digits are what train.py says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
