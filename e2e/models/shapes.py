"""Makes shapes.onnx, beside this file: a model with a scalar, a free matrix and inputs that may be left out.

`y = x * scale + offset`, where `scale` is 2 and `offset` is [1] unless a request gives others; `rows` gives back the
scalar that it takes.

`tools/venv train && .tools/venv/train/bin/python e2e/models/shapes.py`
"""

import pathlib

import numpy
from onnx import TensorProto, checker, helper, numpy_helper


def main() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["y"]),
            helper.make_node("Identity", ["count"], ["count_back"]),
        ],
        "shapes",
        [
            value("x", TensorProto.FLOAT, ["rows", "columns"]),
            value("count", TensorProto.INT64, []),
            value("scale", TensorProto.FLOAT, []),
            value("offset", TensorProto.FLOAT, [1]),
        ],
        [
            value("y", TensorProto.FLOAT, ["rows", "columns"]),
            value("count_back", TensorProto.INT64, []),
        ],
        [
            numpy_helper.from_array(numpy.array(2, dtype=numpy.float32), "scale"),
            numpy_helper.from_array(numpy.array([1], dtype=numpy.float32), "offset"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    pathlib.Path(__file__).with_suffix(".onnx").write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
