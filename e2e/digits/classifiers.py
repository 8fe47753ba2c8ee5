"""Four classifiers of digits: how each is fitted, and its ONNX graph, written by hand.

All have one optimum, which the solvers reach far more exactly than the grid that weights are rounded to. That is what
makes the files come out the same whatever order a machine adds floating-point numbers in.

The regularisation strengths are those of the best 5-fold cross-validation on the training set.
"""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from contract import CLASSES, classifier_outputs, model_file
from dataset import BRIGHTEST, SEED, SIDE

WEIGHT_GRID = 1 / 1024
KERNEL_WIDTH = 0.3  # of exp(-width * squared distance), pixels from 0 to 1
KERNEL_RIDGE = 0.1


@dataclass(frozen=True)
class Linear:
    """Softmax regression on means over windows of `window` pixels (rows, columns)."""

    purpose: str
    window: tuple[int, int]
    inverse_penalty: float

    def train(self, images: np.ndarray, labels: np.ndarray) -> bytes:
        """Fits it and returns the ONNX file."""
        fit = LogisticRegression(C=self.inverse_penalty, solver="newton-cholesky", tol=1e-10, max_iter=200)
        fit.fit(window_means(images, self.window), labels)
        return self.graph(on_grid(fit.coef_.T), on_grid(fit.intercept_))

    def graph(self, weights: np.ndarray, bias: np.ndarray) -> bytes:
        """image → 0 to 1 → window means → weights → softmax."""
        constants = {"scale": np.float32(1 / BRIGHTEST), "weights": weights, "bias": bias}
        nodes = [helper.make_node("Mul", ["image", "scale"], ["pixels"])]
        features = "pixels"
        if self.window != (1, 1):
            constants["square"] = np.array([-1, 1, SIDE, SIDE], dtype=np.int64)
            features = "features"
            nodes += [
                helper.make_node("Reshape", ["pixels", "square"], ["squares"]),
                helper.make_node("AveragePool", ["squares"], ["means"], kernel_shape=self.window, strides=self.window),
                helper.make_node("Flatten", ["means"], ["features"], axis=1),
            ]
        nodes.append(helper.make_node("Gemm", [features, "weights", "bias"], ["logits"]))
        return model_file(nodes + classifier_outputs("logits"), constants, purpose=self.purpose)


@dataclass(frozen=True)
class Kernel:
    """Ridge regression on the Gaussian kernel with every training image; the scores' scale is calibrated."""

    purpose: str

    def train(self, images: np.ndarray, labels: np.ndarray) -> bytes:
        """Fits it and returns the ONNX file."""
        weights = kernel_ridge(images, labels)
        return self.graph(images, on_grid(weights * calibrated_scale(images, labels)))

    def graph(self, centres: np.ndarray, weights: np.ndarray) -> bytes:
        """Squared distances to the centres, exact since pixels are whole numbers → kernel → weights → softmax."""
        constants = {
            "centres": centres.T.astype(np.uint8),
            "width": np.float32(-KERNEL_WIDTH / BRIGHTEST**2),
            "minus_two": np.float32(-2),
            "zero": np.float32(0),
            "weights": weights,
        }
        nodes = [
            helper.make_node("Cast", ["centres"], ["centre_pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSumSquare", ["centre_pixels"], ["centre_norms"], axes=[0], keepdims=1),
            helper.make_node("ReduceSumSquare", ["image"], ["image_norms"], axes=[1], keepdims=1),
            helper.make_node("MatMul", ["image", "centre_pixels"], ["products"]),
            helper.make_node("Mul", ["products", "minus_two"], ["cross_terms"]),
            helper.make_node("Add", ["image_norms", "centre_norms"], ["norms"]),
            helper.make_node("Add", ["norms", "cross_terms"], ["distances"]),
            helper.make_node("Max", ["distances", "zero"], ["squared_distances"]),
            helper.make_node("Mul", ["squared_distances", "width"], ["exponents"]),
            helper.make_node("Exp", ["exponents"], ["similarities"]),
            helper.make_node("MatMul", ["similarities", "weights"], ["logits"]),
        ]
        return model_file(nodes + classifier_outputs("logits"), constants, purpose=self.purpose)


CLASSIFIERS: dict[str, Linear | Kernel] = {
    "digits-device": Linear("device tier: softmax regression on 4 x 4 means", (2, 2), inverse_penalty=30),
    "digits-device-r2": Linear("device tier, second revision: 4 x 8 means", (2, 1), inverse_penalty=30),
    "digits-edge": Linear("edge tier: softmax regression on all pixels", (1, 1), inverse_penalty=10),
    "digits-cloud": Kernel("cloud tier: Gaussian kernel ridge regression"),
}


def on_grid(weights: np.ndarray) -> np.ndarray:
    """Weights rounded to a grid that is far coarser than what solvers on two machines differ by."""
    return (np.round(weights / WEIGHT_GRID) * WEIGHT_GRID).astype(np.float32)


def window_means(images: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Means of pixels from 0 to 1 over windows that do not overlap."""
    rows, columns = window
    squares = images.reshape(-1, SIDE // rows, rows, SIDE // columns, columns) / BRIGHTEST
    return squares.mean(axis=(2, 4)).reshape(len(images), -1)


def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Gaussian kernel between two sets of images."""
    norms = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    return np.exp(-KERNEL_WIDTH / BRIGHTEST**2 * (norms - 2 * left @ right.T))


def kernel_ridge(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights that predict 1 for an image's own class and 0 for the others."""
    regularised = kernel(images, images) + KERNEL_RIDGE * np.eye(len(images))
    return np.linalg.solve(regularised, np.eye(CLASSES)[labels])


def calibrated_scale(images: np.ndarray, labels: np.ndarray) -> int:
    """The factor before the softmax under which images left out of the fit are most likely."""
    scores = np.empty((len(images), CLASSES))
    folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
    for kept, left_out in folds.split(images, labels):
        scores[left_out] = kernel(images[left_out], images[kept]) @ kernel_ridge(images[kept], labels[kept])

    def log_loss(scale: int) -> float:
        scaled = scale * scores
        own = scaled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(scaled).sum(axis=1)) - own).mean())

    return min(range(1, 41), key=log_loss)
