"""What all digits models have in common: inputs, outputs, file format, and how to run one."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

PIXELS = 64
CLASSES = 10
OPSET = 17
IR_VERSION = 8


def classifier_outputs(logits: str) -> list[onnx.NodeProto]:
    """The end of every graph: both outputs of the contract from the named scores."""
    return [
        helper.make_node("Softmax", [logits], ["probabilities"], axis=-1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]


def model_file(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    purpose: str = "",
    classes: int = CLASSES,
    sparse_constants: tuple[onnx.SparseTensorProto, ...] = (),
) -> bytes:
    """A checked ONNX file: `image` FP32 [-1, 64] → `probabilities` FP32 [-1, classes], `label` INT64 [-1]."""
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", PIXELS])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        sparse_initializer=sparse_constants,
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], doc_string=purpose
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def load(model: bytes) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU, with one thread, that logs nothing."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answer(session: onnxruntime.InferenceSession, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels for a batch of images."""
    probabilities, labels = session.run(["probabilities", "label"], {"image": images.astype(np.float32)})
    return probabilities, labels
