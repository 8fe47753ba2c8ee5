"""Makes patient.onnx, beside this file: a model that gives back the scores that it is sent, after as many rounds of
nothing as `rounds` says. So a request says how sure the model is, and how long it takes.

`tools/venv train && .tools/venv/train/bin/python e2e/models/patient.py`
"""

import pathlib

import numpy
from onnx import TensorProto, checker, helper, numpy_helper


def main() -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["still_more"]),
            helper.make_node("Add", ["sum", "nothing"], ["next_sum"]),
        ],
        "round",
        [
            value("round", TensorProto.INT64, []),
            value("more", TensorProto.BOOL, []),
            value("sum", TensorProto.FLOAT, ["rows", "classes"]),
        ],
        [value("still_more", TensorProto.BOOL, []), value("next_sum", TensorProto.FLOAT, ["rows", "classes"])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["scores"], body=body)],
        "patient",
        [value("x", TensorProto.FLOAT, ["rows", "classes"]), value("rounds", TensorProto.INT64, [])],
        [value("scores", TensorProto.FLOAT, ["rows", "classes"])],
        [
            numpy_helper.from_array(numpy.array(True), "yes"),
            numpy_helper.from_array(numpy.array(0, numpy.float32), "nothing"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    pathlib.Path(__file__).with_suffix(".onnx").write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
