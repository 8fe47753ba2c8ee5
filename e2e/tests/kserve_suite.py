"""What KServe's clients do with an agent: `kserve_suite.py HTTP_HOST:PORT GRPC_HOST:PORT`. Prints each check.

The model `datatypes` gives back what it takes. Values are compared bit for bit.
"""

import asyncio
import importlib.util
import itertools
import pathlib
import sys
import types

import httpx
import numpy as np


def without_its_server() -> None:
    """Importing `kserve` imports its server, and everything that needs; the client is a module beside that."""
    package = types.ModuleType("kserve")
    package.__path__ = [str(pathlib.Path(importlib.util.find_spec("kserve").origin).parent)]
    sys.modules["kserve"] = package


without_its_server()
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput  # noqa: E402

MODEL = "datatypes"


def extremes(dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.array([[info.min, info.max], [0, 1]], dtype=dtype)


# Finite, so that JSON carries them too.
VALUES = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{f"{sign}INT{bits}": extremes(f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "FP16": np.array([[0.1, -65504], [6e-8, 0]], dtype=np.float16),
    "FP32": np.array([[0.1, -3.4028235e38], [1e-45, 0]], dtype=np.float32),
    "FP64": np.array([[0.1, -1.7976931348623157e308], [5e-324, 0]], dtype=np.float64),
    "BYTES": np.array([["a", ""], ["ä€😀", "\n\""]], dtype=np.object_),
}
# KServe's client has no JSON for it.
BINARY_ONLY = {"FP16"}


def inputs(binary: bool) -> list[InferInput]:
    made = []
    for name, values in VALUES.items():
        tensor = InferInput(name, list(values.shape), name)
        tensor.set_data_from_numpy(values, binary_data=binary or name in BINARY_ONLY)
        made.append(tensor)
    # Nor anything for BF16, which the model takes too.
    return [*made, InferInput("BF16", [2, 0], "BF16", data=[])]


def request(inputs_binary: bool, outputs_binary: bool) -> InferRequest:
    wanted = [
        RequestedOutput(f"{name}_back", {"binary_data": outputs_binary or name in BINARY_ONLY}) for name in VALUES
    ]
    return InferRequest(
        MODEL, inputs(inputs_binary), request_id="seven", parameters={"max_latency_ms": 30000}, request_outputs=wanted
    )


def check(response) -> None:
    assert response.model_name == MODEL and response.id == "seven", response
    assert [output.name for output in response.outputs] == [f"{name}_back" for name in VALUES]
    for output in response.outputs:
        sent = VALUES[output.name.removesuffix("_back")]
        back = output.as_numpy()
        assert back.shape == sent.shape, output.name
        if sent.dtype == np.object_:
            texts = [text if isinstance(text, str) else text.decode() for text in back.ravel().tolist()]
            assert texts == sent.ravel().tolist(), back
        else:
            assert back.dtype == sent.dtype and back.tobytes() == sent.tobytes(), (output.name, back)


async def over_rest(base: str) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=1)) as client:
        assert await client.is_server_live(base) is True
        assert await client.is_server_ready(base) is True
        assert await client.is_model_ready(base, MODEL) is True
        assert await client.is_model_ready(base, "nobody") is False
        print("ok over rest: health and readiness")
        for inputs_binary, outputs_binary in itertools.product((False, True), repeat=2):
            headers = {}
            response = await client.infer(
                base, request(inputs_binary, outputs_binary), model_name=MODEL, response_headers=headers
            )
            check(response)
            assert response.parameters["tier"] == "device", response.parameters
            print("ok over rest: inputs binary", inputs_binary, "outputs binary", outputs_binary)
        # What httpx asks for by itself, and what it is asked to ask for.
        for coding in ("gzip", "deflate", "identity"):
            check(await client.infer(base, request(True, True), model_name=MODEL, headers={"accept-encoding": coding}))
        await errors_over_rest(client, base)


async def errors_over_rest(client: InferenceRESTClient, base: str) -> None:
    short = request(False, False)
    short.inputs = short.inputs[1:]
    for status, named, asked in [
        (404, "nobody", client.infer(base, request(False, False), model_name="nobody")),
        (400, '"BOOL" is missing', client.infer(base, short, model_name=MODEL)),
        (400, "inputs", client.infer(base, {"id": "a"}, model_name=MODEL)),
        (400, "terrace-wibble", client.infer(base, request(True, True), model_name=MODEL, headers={"terrace-wibble": "1"})),
    ]:
        try:
            await asked
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == status, error
            # The client reads an error only where its type is exactly this.
            assert error.response.headers["content-type"] == "application/json", error.response.headers
            assert named in str(error), error
        else:
            raise AssertionError(f"no error that names {named!r}")
    print("ok over rest: errors are the client's exceptions")


async def over_grpc(address: str) -> None:
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        asked = request(True, True)
        # Over gRPC all of a message's elements are raw, or none.
        asked.inputs[-1] = InferInput("BF16", [2, 1], "BF16")
        asked.inputs[-1]._raw_data = bytes(4)
        check(await client.infer(asked))
        print("ok over grpc")


if __name__ == "__main__":
    asyncio.run(over_rest(f"http://{sys.argv[1]}"))
    asyncio.run(over_grpc(sys.argv[2]))
