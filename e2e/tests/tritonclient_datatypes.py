"""Every datatype through Triton's clients: `tritonclient_datatypes.py HTTP_HOST:PORT GRPC_HOST:PORT`. Prints each check.

The model `datatypes` gives back what it takes. Values are compared bit for bit.
"""

import itertools
import sys
import threading

import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

MODEL = "datatypes"


def extremes(dtype: type) -> list:
    info = np.iinfo(dtype)
    return [info.min, info.max, 0, 1]


# Finite, so that JSON carries them too.
VALUES = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{f"UINT{bits}": np.array(extremes(f"uint{bits}"), dtype=f"uint{bits}").reshape(2, 2) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.array(extremes(f"int{bits}"), dtype=f"int{bits}").reshape(2, 2) for bits in (8, 16, 32, 64)},
    "FP16": np.array([[0.1, -65504], [6e-8, 0]], dtype=np.float16),
    "BF16": np.array([[0.1, -3.38e38], [1e-40, 0]], dtype=ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -3.4028235e38], [1e-45, 0]], dtype=np.float32),
    "FP64": np.array([[0.1, -1.7976931348623157e308], [5e-324, 0]], dtype=np.float64),
    "BYTES": np.array([["a", ""], ["ä€😀", "\n\""]], dtype=np.object_),
}
# What only bytes carry.
STRANGE = {
    **VALUES,
    "FP16": np.array([[np.nan, np.inf], [-np.inf, -0.0]], dtype=np.float16),
    "BF16": np.array([[np.nan, np.inf], [-np.inf, -0.0]], dtype=ml_dtypes.bfloat16),
    "FP32": np.array([[np.nan, np.inf], [-np.inf, -0.0]], dtype=np.float32),
    "FP64": np.array([[np.nan, np.inf], [-np.inf, -0.0]], dtype=np.float64),
}
# Triton's client has no JSON for it.
BINARY_ONLY = {"BF16"}


def main(http_address: str, grpc_address: str) -> None:
    with over_http.InferenceServerClient(http_address) as client:
        for inputs_binary, outputs_binary in itertools.product((False, True), repeat=2):
            over_http_gives_back(client, VALUES, inputs_binary, outputs_binary)
            print("ok over http, inputs binary", inputs_binary, "outputs binary", outputs_binary)
        over_http_gives_back(client, STRANGE, True, True)
        empty = {name: values[:0] for name, values in VALUES.items()}
        over_http_gives_back(client, empty, True, True)
        print("ok over http, what only bytes carry, and nothing at all")
        triton_extras(client, lambda config: config, lambda stats: stats)
        repository = client.get_model_repository_index()
        assert [model["name"] for model in repository] == [MODEL] and repository[0]["state"] == "READY", repository
        print("ok over http, config, statistics and index")
    with over_grpc.InferenceServerClient(grpc_address) as client:
        over_grpc_gives_back(client, VALUES)
        over_grpc_gives_back(client, STRANGE)
        over_grpc_gives_back(client, {name: values[:0] for name, values in VALUES.items()})
        for algorithm in ("gzip", "deflate"):
            over_grpc_gives_back(client, VALUES, compression_algorithm=algorithm)
        print("ok over grpc, also what only bytes carry, nothing at all, and compressed")
        the_rest_over_grpc(client)
        print("ok over grpc, health, metadata, config, statistics, index, errors, deadline")
    what_never_arrives_is_told_so(grpc_address)
    print("ok over grpc, a request that never arrives ends at its deadline")


def tensors(module, values: dict, **how) -> list:
    made = []
    for name, array in values.items():
        tensor = module.InferInput(name, list(array.shape), name)
        binary = {"binary_data": True} if how and name in BINARY_ONLY else how
        tensor.set_data_from_numpy(array, **binary)
        made.append(tensor)
    return made


def check(result, values: dict, names=None) -> None:
    for name in names or values:
        sent, back = values[name], result.as_numpy(f"{name}_back")
        assert back is not None and back.shape == sent.shape, (name, back)
        if name == "BYTES":
            texts = [text if isinstance(text, str) else text.decode() for text in back.ravel().tolist()]
            assert texts == sent.ravel().tolist(), (name, back)
        else:
            assert back.dtype == np.dtype(triton_to_np_dtype(name)), (name, back.dtype)
            assert back.tobytes() == sent.tobytes(), (name, sent, back)


def over_http_gives_back(client, values: dict, inputs_binary: bool, outputs_binary: bool) -> None:
    asked = [
        over_http.InferRequestedOutput(f"{name}_back", binary_data=outputs_binary or name in BINARY_ONLY)
        for name in values
    ]
    check(client.infer(MODEL, tensors(over_http, values, binary_data=inputs_binary), outputs=asked), values)
    if outputs_binary:
        check(client.infer(MODEL, tensors(over_http, values, binary_data=inputs_binary)), values)


def over_grpc_gives_back(client, values: dict, **how) -> None:
    check(client.infer(MODEL, tensors(over_grpc, values), **how), values)
    some = [over_grpc.InferRequestedOutput("INT64_back"), over_grpc.InferRequestedOutput("BYTES_back")]
    result = client.infer(MODEL, tensors(over_grpc, values), outputs=some, request_id="seven", **how)
    check(result, values, ["INT64", "BYTES"])
    response = result.get_response()
    assert [output.name for output in response.outputs] == ["INT64_back", "BYTES_back"], response.outputs
    assert response.id == "seven" and response.parameters["tier"].string_param == "device", response


def triton_extras(client, of_config, of_stats) -> None:
    config = of_config(client.get_model_config(MODEL))
    assert config["name"] == MODEL and config["backend"] == "onnxruntime", config
    assert {tensor["data_type"] for tensor in config["input"]} >= {"TYPE_FP32", "TYPE_STRING", "TYPE_BF16"}, config
    before = of_stats(client.get_inference_statistics(MODEL))["model_stats"][0]
    assert int(before["inference_stats"]["success"]["count"]) > 0, before
    everything = of_stats(client.get_inference_statistics())["model_stats"]
    assert [model["name"] for model in everything] == [MODEL], everything


def silent(ended: threading.Event):
    """Requests that do not come before the end, nor then."""
    ended.wait()
    yield from ()


def what_never_arrives_is_told_so(address: str) -> None:
    never = threading.Event()
    with grpc.insecure_channel(address) as channel:
        infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        call = infer.future(silent(never), metadata=[("terrace-max-latency-ms", "200")])
        error = call.exception(timeout=20)
        never.set()
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "arrive" in error.details(), error


def the_rest_over_grpc(client) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_server_metadata().name == "terrace"
    metadata = client.get_model_metadata(MODEL, as_json=True)
    assert metadata["name"] == MODEL and len(metadata["inputs"]) == len(VALUES), metadata
    as_json = lambda call: lambda *arguments: call(*arguments, as_json=True)
    config = as_json(client.get_model_config)(MODEL)["config"]
    assert config["name"] == MODEL and len(config["input"]) == len(VALUES), config
    stats = as_json(client.get_inference_statistics)(MODEL)
    assert int(stats["model_stats"][0]["inference_stats"]["success"]["count"]) > 0, stats
    index = as_json(client.get_model_repository_index)()
    assert [model["name"] for model in index["models"]] == [MODEL], index
    client.infer(MODEL, tensors(over_grpc, VALUES), headers={"terrace-privacy-required": "true"})
    client.infer(MODEL, tensors(over_grpc, VALUES), parameters={"max_latency_ms": 5000, "complexity": 0.5})
    for code, call in [
        ("NOT_FOUND", lambda: client.infer("nobody", tensors(over_grpc, VALUES))),
        ("NOT_FOUND", lambda: client.infer(MODEL, tensors(over_grpc, VALUES), model_version="7")),
        ("INVALID_ARGUMENT", lambda: client.infer(MODEL, tensors(over_grpc, VALUES)[1:])),
        ("INVALID_ARGUMENT", lambda: client.infer(MODEL, tensors(over_grpc, VALUES), headers={"terrace-wibble": "1"})),
        ("DEADLINE_EXCEEDED", lambda: client.infer(MODEL, tensors(over_grpc, VALUES), timeout=1)),
    ]:
        try:
            call()
        except InferenceServerException as error:
            assert code in str(error.status()), (code, error.status(), error.message())
        else:
            raise AssertionError(f"no {code}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
