"""Makes datatypes.onnx, beside this file: a model that gives back what it takes, one input and output a datatype.

`tools/venv train && .tools/venv/train/bin/python e2e/models/datatypes.py`
"""

import pathlib

from onnx import TensorProto, checker, helper

# The datatypes of the Open Inference Protocol, and ONNX's names for them.
DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def main() -> None:
    nodes, inputs, outputs = [], [], []
    for name, element in DATATYPES.items():
        nodes.append(helper.make_node("Identity", [name], [f"{name}_back"]))
        inputs.append(helper.make_tensor_value_info(name, element, ["rows", "columns"]))
        outputs.append(helper.make_tensor_value_info(f"{name}_back", element, ["rows", "columns"]))
    graph = helper.make_graph(nodes, "datatypes", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    pathlib.Path(__file__).with_suffix(".onnx").write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
