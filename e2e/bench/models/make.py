"""Makes the models that the benches serve: `make.py OUT_DIR`, a second or two, and the same bytes every time.

Random weights: what is measured is serving, so only shapes and costs matter. They come from NumPy's PCG64, whose raw
integers are the same for every version and machine, and are scaled without a library function, so SHA-256 sums hold.
Runs in `tools/venv bench-models`.
"""

import sys
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from math import prod, sqrt
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
BATCH = "batch"
INPUT, OUTPUT = "input", "output"

IMAGE = (3, 224, 224)
CLASSES = 1000
# MobileNet v1's blocks at 0.5 of its width, which the file's size and its 150 million multiply-adds come from.
STEM_CHANNELS = 16
BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), *[(256, 1)] * 5, (512, 2), (512, 1))


class Graph:
    """A chain of nodes, grown from `input`; `last` is the name of the newest value."""

    def __init__(self, seed: int):
        self.nodes, self.weights = [], []
        self.last = INPUT
        self._bits = np.random.PCG64(seed)

    def node(self, kind: str, *weights: np.ndarray, **attributes) -> None:
        """Appends a node of this kind, on `last` and these weights."""
        names = [f"w{len(self.weights) + index}" for index in range(len(weights))]
        self.weights += [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names)]
        result = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *names], [result], **attributes))
        self.last = result

    def dense(self, inputs: int, outputs: int) -> None:
        """A fully connected layer with bias."""
        self.node("Gemm", self._random((inputs, outputs), inputs), self._random((outputs,), inputs))

    def convolution(self, inputs: int, outputs: int, side: int, *, stride: int = 1, groups: int = 1) -> None:
        """A square convolution with bias and ReLU, padded so that only the stride makes the image smaller."""
        fan_in = side * side * inputs // groups
        weights = self._random((outputs, inputs // groups, side, side), fan_in)
        layout = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [side // 2] * 4, "group": groups}
        self.node("Conv", weights, self._random((outputs,), fan_in), **layout)
        self.node("Relu")

    def file(self, name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> bytes:
        """The checked ONNX file, whose last value is named `output`."""
        self.nodes[-1].output[0] = OUTPUT
        graph = helper.make_graph(self.nodes, name, [value(INPUT, inputs)], [value(OUTPUT, outputs)], self.weights)
        model = helper.make_model(
            graph,
            producer_name="terrace-bench",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def _random(self, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        """Uniform with variance 2 / fan_in, which keeps values from vanishing or overflowing through the ReLUs."""
        # 24 bits are exact in a float32, so that nothing is rounded before the one multiplication.
        steps = (self._bits.random_raw(prod(shape)) >> np.uint64(40)).astype(np.float32) - np.float32(2**23)
        return (steps * np.float32(sqrt(6 / fan_in) / 2**23)).reshape(shape)


def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    """An FP32 input or output whose batch axis is free."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *shape])


def dense_layers(graph: Graph, widths: tuple[int, ...]) -> None:
    """Fully connected layers of these widths with ReLU between them."""
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        if index:
            graph.node("Relu")
        graph.dense(inputs, outputs)


def mlp() -> bytes:
    """Costs next to nothing, so that what is measured is the server."""
    graph = Graph(seed=1)
    dense_layers(graph, (64, 32, 10))
    graph.node("Softmax", axis=-1)
    return graph.file("mlp", (64,), (10,))


def cnn() -> bytes:
    """MobileNet v1 at half width: bound by arithmetic, and a request of 602 KB in binary."""
    graph = Graph(seed=2)
    channels = STEM_CHANNELS
    graph.convolution(IMAGE[0], channels, 3, stride=2)
    for outputs, stride in BLOCKS:
        graph.convolution(channels, channels, 3, stride=stride, groups=channels)
        graph.convolution(channels, outputs, 1)
        channels = outputs
    graph.node("GlobalAveragePool")
    graph.node("Flatten")
    graph.dense(channels, CLASSES)
    return graph.file("cnn", IMAGE, (CLASSES,))


def echo() -> bytes:
    """The body of `cnn` both ways and no work between: what transport and codec cost."""
    graph = Graph(seed=3)
    graph.node("Identity")
    return graph.file("echo", (prod(IMAGE),), (prod(IMAGE),))


def wide() -> bytes:
    """25 M weights, 100 MB: bound by memory, so that a batch costs hardly more than a single item."""
    graph = Graph(seed=4)
    dense_layers(graph, (1024, 4096, 4096, 1024))
    return graph.file("wide", (1024,), (1024,))


MODELS: dict[str, Callable[[], bytes]] = {"mlp": mlp, "cnn": cnn, "echo": echo, "wide": wide}


def main() -> None:
    """Writes each file and prints its SHA-256 as `sha256sum` does."""
    if len(sys.argv) != 2:
        sys.exit("usage: make.py OUT_DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MODELS.items():
        content = make()
        (folder / f"{name}.onnx").write_bytes(content)
        print(f"{sha256(content).hexdigest()}  {name}.onnx", flush=True)


if __name__ == "__main__":
    main()
