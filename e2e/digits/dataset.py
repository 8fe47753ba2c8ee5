"""The digits: split, corrupted variants and entropy. Integers in, integers out: the same bytes on every machine."""

import json

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 0
TEST_IMAGES = 360
SIDE = 8
BRIGHTEST = 16
ENTROPY_BINS = 256


def split(seed: int = SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, test images, training labels, test labels; every digit has its share in both."""
    digits = load_digits()
    return train_test_split(
        digits.data.astype(np.int64),
        digits.target.astype(np.int64),
        test_size=TEST_IMAGES,
        stratify=digits.target,
        random_state=seed,
    )


def with_noise(images: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Every pixel moves by up to 6 of 16 levels, up or down."""
    amount = np.random.default_rng(seed).integers(-6, 7, images.shape)
    return np.clip(images + amount, 0, BRIGHTEST)


def shifted(images: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Every image moves by one pixel up, down, left or right; what comes in is dark."""
    directions = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    chosen = np.random.default_rng(seed + 1).integers(0, len(directions), len(images))
    padded = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    moved = np.empty_like(images)
    for index, (image, direction) in enumerate(zip(padded, chosen)):
        down, right = directions[direction]
        moved[index] = image[1 - down : 1 - down + SIDE, 1 - right : 1 - right + SIDE].ravel()
    return moved


def occluded(images: np.ndarray, seed: int = SEED) -> np.ndarray:
    """A square of 3 by 3 pixels, somewhere in the inner 6 by 6, is dark."""
    covered = images.reshape(-1, SIDE, SIDE).copy()
    corners = np.random.default_rng(seed + 2).integers(1, 5, (len(images), 2))
    for image, (top, left) in zip(covered, corners):
        image[top : top + 3, left : left + 3] = 0
    return covered.reshape(images.shape)


def variants(images: np.ndarray, seed: int = SEED) -> dict[str, np.ndarray]:
    """The test images as they are and in three corrupted forms, by the name that files and the table use."""
    return {
        "clean": images,
        "noise": with_noise(images, seed),
        "shift": shifted(images, seed),
        "occlusion": occluded(images, seed),
    }


def to_json(images: np.ndarray, labels: np.ndarray) -> bytes:
    """An image set as a file: one line an image."""
    rows = ",\n".join(json.dumps(image, separators=(",", ":")) for image in images.tolist())
    return f'{{"images":[\n{rows}\n],"labels":{json.dumps(labels.tolist(), separators=(",", ":"))}}}\n'.encode()


def entropy(image: np.ndarray) -> float:
    """Shannon entropy of the pixel values over 256 equal bins between the least and the greatest, in bits, by 8."""
    least, greatest = image.min(), image.max()
    if least == greatest:
        return 0.0
    bins = np.minimum((image - least) * ENTROPY_BINS // (greatest - least), ENTROPY_BINS - 1)
    shares = np.bincount(bins) / len(image)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum() / np.log2(ENTROPY_BINS))
