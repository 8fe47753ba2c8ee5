"""The data sets: for each seed another split, models trained on it, and what they say of what they did not see."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DIGITS = Path(__file__).resolve().parents[3] / "e2e/digits"
sys.path.append(str(DIGITS))

import dataset  # noqa: E402
from classifiers import CLASSIFIERS  # noqa: E402
from contract import answer, load  # noqa: E402

from temperature import fitted_temperature  # noqa: E402

TIERS = ("device", "edge", "cloud")
FOLDS = 5
CANCER_TEST_ROWS = 114
# The first columns are means over a sample's cells: radius, texture, ….
CANCER_COLUMNS = {"device": 2, "edge": 10, "cloud": 30}

# From inputs to probabilities, a row a request.
Model = Callable[[np.ndarray], np.ndarray]
Trainer = Callable[[np.ndarray, np.ndarray], Model]


@dataclass(frozen=True)
class Kind:
    """A data set, as the page speaks of it."""

    title: str
    requests: int
    test_share: float


@dataclass(frozen=True)
class Trial:
    """One seed's test requests, and what each tier's model says of them."""

    inputs: np.ndarray
    labels: np.ndarray
    probabilities: dict[str, np.ndarray]
    temperature: float
    weights: dict[str, float]

    def right(self, tier: str) -> np.ndarray:
        """Which requests a tier's model answers rightly."""
        return self.probabilities[tier].argmax(axis=1) == self.labels


DIGITS_SHARE = dataset.TEST_IMAGES / 1797
KINDS = {
    "digits": Kind("Digits", dataset.TEST_IMAGES, DIGITS_SHARE),
    "noise": Kind("Digits, noise", dataset.TEST_IMAGES, DIGITS_SHARE),
    "shift": Kind("Digits, shifted", dataset.TEST_IMAGES, DIGITS_SHARE),
    "occlusion": Kind("Digits, occluded", dataset.TEST_IMAGES, DIGITS_SHARE),
    "cancer": Kind("Breast cancer", CANCER_TEST_ROWS, CANCER_TEST_ROWS / 569),
}


def trials(seed: int) -> Iterator[tuple[str, Trial]]:
    """Every data set's trial for one seed. Seed 0 of the digits is the split that the committed models come from."""
    inputs, test_inputs, labels, test_labels = dataset.split(seed)
    models, temperature, weights = trained(DIGITS_TRAINERS, inputs, labels, seed)
    for name, changed in dataset.variants(test_inputs, seed).items():
        answers = {tier: model(changed) for tier, model in models.items()}
        yield ("digits" if name == "clean" else name), Trial(changed, test_labels, answers, temperature, weights)

    cancer = load_breast_cancer()
    inputs, test_inputs, labels, test_labels = train_test_split(
        cancer.data, cancer.target, test_size=CANCER_TEST_ROWS, stratify=cancer.target, random_state=seed
    )
    models, temperature, weights = trained(CANCER_TRAINERS, inputs, labels, seed)
    answers = {tier: model(test_inputs) for tier, model in models.items()}
    yield "cancer", Trial(test_inputs, test_labels, answers, temperature, weights)


def trained(
    trainers: dict[str, Trainer], inputs: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[dict[str, Model], float, dict[str, float]]:
    """Models by tier, the device's temperature, and each tier's weight in an ensemble.

    The latter two come from rows held out of a fit: the training set is cut into five, and each fifth is answered by
    a model trained on the other four.
    """
    models = {tier: trainer(inputs, labels) for tier, trainer in trainers.items()}
    held_out = {tier: held_out_probabilities(trainer, inputs, labels, seed) for tier, trainer in trainers.items()}
    weights = {tier: log_odds((answers.argmax(axis=1) == labels).mean()) for tier, answers in held_out.items()}
    return models, fitted_temperature(held_out["device"], labels), weights


def held_out_probabilities(trainer: Trainer, inputs: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """What models say of training rows that they were not trained on."""
    probabilities = np.empty((len(labels), labels.max() + 1))
    for kept, left_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, labels):
        probabilities[left_out] = trainer(inputs[kept], labels[kept])(inputs[left_out])
    return probabilities


def log_odds(accuracy: float) -> float:
    """What a member's vote is worth where errors are independent, to one decimal as an author would write it."""
    return float(np.round(np.log(accuracy / (1 - accuracy)), 1))


def digits_trainer(name: str) -> Trainer:
    """Trains as `make digits` does, and answers as ONNX Runtime does."""

    def train(images: np.ndarray, labels: np.ndarray) -> Model:
        session = load(CLASSIFIERS[name].train(images, labels))
        return lambda images: answer(session, images)[0]

    return train


def cancer_trainer(columns: int) -> Trainer:
    """Logistic regression on the first columns, standardised."""

    def train(rows: np.ndarray, labels: np.ndarray) -> Model:
        fit = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[:, :columns], labels)
        return lambda rows: fit.predict_proba(rows[:, :columns])

    return train


DIGITS_TRAINERS = {tier: digits_trainer(f"digits-{tier}") for tier in TIERS}
CANCER_TRAINERS = {tier: cancer_trainer(CANCER_COLUMNS[tier]) for tier in TIERS}
