"""Compression as Triton's clients do it: `tritonclient_compression.py HTTP_HOST:PORT GRPC_HOST:PORT`. Prints each check.

The model `datatypes` gives back what it takes.
"""

import itertools
import sys

import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

MODEL = "datatypes"
DTYPES = {
    "BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
# Much of the same, so that it can be compressed.
NUMBERS = np.tile(np.arange(50, dtype=np.float32) / 4, 400).reshape(1, -1)
TEXTS = np.array([["the same again"] * 2000], dtype=np.object_)


def tensors(module, **how) -> list:
    made = []
    for name, dtype in DTYPES.items():
        values = {"FP32": NUMBERS, "BYTES": TEXTS}.get(name, np.zeros((1, 0), dtype=dtype))
        tensor = module.InferInput(name, list(values.shape), name)
        tensor.set_data_from_numpy(values, **how)
        made.append(tensor)
    # Triton's client has no JSON for it.
    empty = module.InferInput("BF16", [1, 0], "BF16")
    empty.set_data_from_numpy(np.zeros((1, 0), dtype=ml_dtypes.bfloat16), **({"binary_data": True} if how else {}))
    return [*made, empty]


def check(result) -> None:
    assert (result.as_numpy("FP32_back") == NUMBERS).all()
    texts = [text if isinstance(text, str) else text.decode() for text in result.as_numpy("BYTES_back").ravel()]
    assert texts == TEXTS.ravel().tolist()


def over_http_in_every_combination(address: str) -> None:
    algorithms = (None, "gzip", "deflate")
    with over_http.InferenceServerClient(address) as client:
        for inputs_binary, outputs_binary, asks, wants in itertools.product((0, 1), (0, 1), algorithms, algorithms):
            outputs = [over_http.InferRequestedOutput(f"{name}_back", binary_data=bool(outputs_binary)) for name in ("FP32", "BYTES")]
            check(client.infer(
                MODEL, tensors(over_http, binary_data=bool(inputs_binary)), outputs=outputs,
                request_compression_algorithm=asks, response_compression_algorithm=wants,
            ))
            print("ok over http: inputs binary", inputs_binary, "outputs binary", outputs_binary, asks, "there", wants, "back")


def over_grpc_compressed(address: str) -> None:
    with over_grpc.InferenceServerClient(address) as client:
        for algorithm in ("gzip", "deflate"):
            outputs = [over_grpc.InferRequestedOutput(f"{name}_back") for name in ("FP32", "BYTES")]
            check(client.infer(MODEL, tensors(over_grpc), outputs=outputs, compression_algorithm=algorithm))
            print("ok over grpc:", algorithm)


def a_bomb_over_grpc_is_refused(address: str) -> None:
    zeros = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(60 << 20)])
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            )
            try:
                infer(zeros, compression=algorithm, timeout=60)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
                assert "200 times" in error.details(), error
            else:
                raise AssertionError("a bomb was taken")
    print("ok over grpc: a bomb is refused")


def a_body_that_is_too_large_is_told_so(address: str) -> None:
    with over_grpc.InferenceServerClient(address) as client:
        tensor = over_grpc.InferInput("FP32", [1, 17 << 20], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 17 << 20), dtype=np.float32))
        try:
            client.infer(MODEL, [tensor])
        except InferenceServerException as error:
            assert "RESOURCE_EXHAUSTED" in str(error.status()), error
            assert "--max-body-bytes" in error.message(), error
        else:
            raise AssertionError("64 MiB and more were taken")
    print("ok over grpc: what is too large is refused")


if __name__ == "__main__":
    over_http_in_every_combination(sys.argv[1])
    over_grpc_compressed(sys.argv[2])
    a_bomb_over_grpc_is_refused(sys.argv[2])
    a_body_that_is_too_large_is_told_so(sys.argv[2])
