"""What Triton's HTTP client does with an agent: `tritonclient_suite.py HOST:PORT DIGITS`. Prints each check."""

import json
import pathlib
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "digits"


def main(address: str, digits: pathlib.Path) -> None:
    test_set = json.loads((digits / "data/digits-test.json").read_text())
    images = np.array(test_set["images"], dtype=np.float32)
    labels = np.array(test_set["labels"])
    checks = [
        server_is_alive_and_ready,
        metadata_tells_the_contract,
        every_image_is_answered,
        binary_and_json_give_the_same_bits,
        outputs_and_id_are_those_asked_for,
        parameters_and_headers_are_understood,
        timeout_is_a_deadline,
        errors_are_the_clients_exceptions,
    ]
    with triton.InferenceServerClient(address) as client:
        for check in checks:
            check(client, images, labels)
            print("ok", check.__name__)


def image_input(images: np.ndarray, name: str = "image", binary: bool = False) -> triton.InferInput:
    tensor = triton.InferInput(name, list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def requested(*names: str, binary: bool = False) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def infer(client, images, **more) -> triton.InferResult:
    return client.infer(MODEL, [image_input(images)], outputs=more.pop("outputs", requested("label")), **more)


def server_is_alive_and_ready(client, images, labels) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("nobody")


def metadata_tells_the_contract(client, images, labels) -> None:
    assert client.get_server_metadata()["name"] == "terrace"
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}], metadata
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "label"], metadata
    version = metadata["versions"][0]
    assert client.is_model_ready(MODEL, version)
    assert client.infer(
        MODEL, [image_input(images[:1])], outputs=requested("label"), model_version=version
    ).get_response()["model_version"] == version


def every_image_is_answered(client, images, labels) -> None:
    result = infer(client, images, outputs=requested("probabilities", "label"))
    probabilities, found = result.as_numpy("probabilities"), result.as_numpy("label")
    assert probabilities.dtype == np.float32 and probabilities.shape == (len(images), 10)
    assert found.dtype == np.int64 and found.shape == (len(images),)
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert (found == probabilities.argmax(axis=1)).all()
    assert (found == labels).mean() > 0.85


def binary_and_json_give_the_same_bits(client, images, labels) -> None:
    answers = []
    for inputs_binary in (False, True):
        tensors = [image_input(images[:3], binary=inputs_binary)]
        some = [*requested("probabilities", binary=True), *requested("label")]
        for outputs in (requested("probabilities", "label"), requested("probabilities", "label", binary=True), some, None):
            result = client.infer(MODEL, tensors, outputs=outputs)
            answers.append((result.as_numpy("probabilities"), result.as_numpy("label")))
    for probabilities, found in answers:
        assert probabilities.tobytes() == answers[0][0].tobytes()
        assert found.tobytes() == answers[0][1].tobytes()


def outputs_and_id_are_those_asked_for(client, images, labels) -> None:
    response = infer(client, images[:2], request_id="request-7").get_response()
    assert response["id"] == "request-7", response
    assert response["model_name"] == MODEL, response
    assert [output["name"] for output in response["outputs"]] == ["label"], response


def parameters_and_headers_are_understood(client, images, labels) -> None:
    wanted = {"privacy_required": True, "max_latency_ms": 5000, "complexity": 0.9}
    parameters = infer(client, images[:1], parameters=wanted).get_response()["parameters"]
    assert parameters["tier"] == "device" and parameters["source"] == "primary", parameters
    assert [attempt["tier"] for attempt in json.loads(parameters["attempts"])] == ["device"], parameters
    assert parameters["latency_ms"] > 0, parameters
    infer(client, images[:1], headers={"terrace-privacy-required": "true"})
    expect_error("terrace-wibble", lambda: infer(client, images[:1], headers={"terrace-wibble": "1"}))


def timeout_is_a_deadline(client, images, labels) -> None:
    infer(client, images[:1], timeout=5_000_000)
    expect_error("", lambda: infer(client, images[:1], timeout=1))


def errors_are_the_clients_exceptions(client, images, labels) -> None:
    expect_error("nobody", lambda: client.infer("nobody", [image_input(images[:1])], outputs=requested("label")))
    expect_error("image", lambda: client.infer(MODEL, [image_input(images[:1, :63])], outputs=requested("label")))
    expect_error("picture", lambda: client.infer(MODEL, [image_input(images[:1], "picture")], outputs=requested("label")))
    short = image_input(images[:1], binary=True)
    short.set_shape([2, 64])
    expect_error("256 bytes are not a FP32 tensor of shape [2, 64]", lambda: client.infer(MODEL, [short]))


def expect_error(named: str, request) -> None:
    try:
        request()
    except InferenceServerException as error:
        assert named in error.message(), error
    else:
        raise AssertionError(f"no error that names {named!r}")


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
