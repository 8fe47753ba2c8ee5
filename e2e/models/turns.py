"""Makes turns.onnx, beside this file: a model that doubles `x` as often as `rounds` says, and so runs for as long.

`tools/venv train && .tools/venv/train/bin/python e2e/models/turns.py`
"""

import pathlib

import numpy
from onnx import TensorProto, checker, helper, numpy_helper


def main() -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["still_more"]),
            helper.make_node("Add", ["sum", "sum"], ["next_sum"]),
        ],
        "round",
        [
            value("round", TensorProto.INT64, []),
            value("more", TensorProto.BOOL, []),
            value("sum", TensorProto.INT64, [1]),
        ],
        [value("still_more", TensorProto.BOOL, []), value("next_sum", TensorProto.INT64, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "turns",
        [value("x", TensorProto.INT64, [1]), value("rounds", TensorProto.INT64, [])],
        [value("y", TensorProto.INT64, [1])],
        [numpy_helper.from_array(numpy.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    pathlib.Path(__file__).with_suffix(".onnx").write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
