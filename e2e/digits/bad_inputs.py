"""Model files that an agent must survive and never serve. `bad_trials.py` shows that they do their harm."""

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contract import CLASSES, PIXELS, classifier_outputs, model_file

# 2^19 rows of 64 x 10 floats are 1.34 GB, above the 1 GiB up to which ONNX Runtime computes constants at load.
HUGE_ROWS = 2**19


def bad_inputs(device_model: bytes) -> dict[str, bytes]:
    """The files by name, derived from the device model where they resemble it."""
    return {
        "junk.onnx": random.Random(0).randbytes(1024),
        "truncated.onnx": device_model[: len(device_model) * 6 // 10],
        "wrong-shape.onnx": without_last_class(device_model),
        "memory-bomb.onnx": memory_bomb_at_load(),
        "memory-bomb-at-run.onnx": memory_bomb_at_run(),
        "endless-loop.onnx": endless_loop(device_model),
    }


def without_last_class(device_model: bytes) -> bytes:
    """The device model for nine digits: valid, and fails the device's cases by its shape."""
    nodes, constants = parts(device_model)
    fewer = {"weights": constants["weights"][:, :-1], "bias": constants["bias"][:-1]}
    return model_file(nodes, constants | fewer, classes=CLASSES - 1)


def memory_bomb_at_load() -> bytes:
    """A sparse constant with one entry, which ONNX Runtime writes out in full, and copies, while it loads the model."""
    entry = helper.make_tensor("huge", TensorProto.FLOAT, [1], [0.0])
    position = helper.make_tensor("", TensorProto.INT64, [1], [0])
    huge = helper.make_sparse_tensor(entry, position, [HUGE_ROWS, PIXELS, CLASSES])
    return model_file(nodes_on_huge(), {}, sparse_constants=(huge,))


def memory_bomb_at_run() -> bytes:
    """A tensor made at run time: the model loads in no memory, and its first run takes all of it."""
    make_huge = helper.make_node("ConstantOfShape", ["shape"], ["huge"])
    shape = np.array([HUGE_ROWS, PIXELS, CLASSES], dtype=np.int64)
    return model_file([make_huge, *nodes_on_huge()], {"shape": shape})


def nodes_on_huge() -> list[onnx.NodeProto]:
    """A use of the huge tensor that keeps the contract, so that memory is the only thing wrong."""
    return [
        helper.make_node("ReduceMax", ["huge"], ["weights"], axes=[0], keepdims=0),
        helper.make_node("MatMul", ["image", "weights"], ["logits"]),
        *classifier_outputs("logits"),
    ]


def endless_loop(device_model: bytes) -> bytes:
    """The device model with its logits negated 2^63 - 1 times before they are used."""
    nodes, constants = parts(device_model)
    logits = ["batch", CLASSES]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still_go_on"]),
            helper.make_node("Neg", ["scores"], ["negated"]),
        ],
        "negate",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, logits),
        ],
        [
            helper.make_tensor_value_info("still_go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("negated", TensorProto.FLOAT, logits),
        ],
    )
    loop = helper.make_node("Loop", ["rounds", "yes", "logits"], ["looped"], body=body)
    extra = {"rounds": np.int64(2**63 - 1), "yes": np.bool_(True)}
    before_outputs = nodes[: -len(classifier_outputs("logits"))]
    return model_file([*before_outputs, loop, *classifier_outputs("looped")], constants | extra)


def parts(model: bytes) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A model's nodes and constants."""
    graph = onnx.load_model_from_string(model).graph
    return list(graph.node), {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
