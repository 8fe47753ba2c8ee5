"""Speculation and ensembles through Triton's clients: `tritonclient_modes.py HTTP_HOST:PORT GRPC_HOST:PORT DIGITS`.

The models `speculative` and `ensemble` answer over gRPC what they answer over HTTP, whoever produced the outputs.
Prints each check.
"""

import json
import pathlib
import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

# Images whose answers come from the device and from the verifier.
IMAGES = 40


def main(http_address: str, grpc_address: str, digits: pathlib.Path) -> None:
    test = json.loads((digits / "data/digits-test.json").read_text())
    images = np.array(test["images"][:IMAGES], dtype=np.float32)
    with over_http.InferenceServerClient(http_address) as http, over_grpc.InferenceServerClient(grpc_address) as grpc:
        told = [same_over_both(http, grpc, "speculative", images[row : row + 1]) for row in range(IMAGES)]
        sources = {source for _, source, _ in told}
        assert sources == {"primary", "verifier"}, sources
        print("ok speculative:", len(told), "images,", sources)
        tier, source, confidence = same_over_both(http, grpc, "ensemble", images)
        assert (tier, source) == ("ensemble", "ensemble"), (tier, source)
        assert 0 < confidence < 1, confidence
        print("ok ensemble: confidence", confidence)
        only_the_label(grpc, images)
        print("ok ensemble: the outputs that were asked for")


def same_over_both(http, grpc, model: str, images: np.ndarray) -> tuple[str, str, float]:
    inputs = over_http.InferInput("image", images.shape, "FP32")
    inputs.set_data_from_numpy(images)
    of_http = http.infer(model, [inputs])
    inputs = over_grpc.InferInput("image", images.shape, "FP32")
    inputs.set_data_from_numpy(images)
    of_grpc = grpc.infer(model, [inputs])
    for output in ("probabilities", "label"):
        np.testing.assert_array_equal(of_http.as_numpy(output), of_grpc.as_numpy(output))
    one, other = of_http.get_response(), of_grpc.get_response()
    assert one.get("model_version", "") == other.model_version, (one, other.model_version)
    told = one["parameters"]
    for name in ("tier", "source", "reason"):
        assert told[name] == other.parameters[name].string_param, (name, told, other.parameters)
    assert told["confidence"] == other.parameters["confidence"].double_param, (told, other.parameters)
    return told["tier"], told["source"], told["confidence"]


def only_the_label(grpc, images: np.ndarray) -> None:
    inputs = over_grpc.InferInput("image", images.shape, "FP32")
    inputs.set_data_from_numpy(images)
    result = grpc.infer("ensemble", [inputs], outputs=[over_grpc.InferRequestedOutput("label")])
    assert [output.name for output in result.get_response().outputs] == ["label"], result.get_response()
    assert len(result.as_numpy("label")) == len(images)
    assert "confidence" in result.get_response().parameters


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))
