"""Triton's clients with TLS and a token: `tritonclient_callers.py HTTP GRPC CA_FILE TOKEN`. Prints each check.

The token is for the namespace `shop`; `shop` and `bank` have a model `digits` each.
"""

import ssl
import sys

import grpc
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException


def main(http_address: str, grpc_address: str, ca: str, token: str) -> None:
    headers = {"authorization": f"Bearer {token}"}
    image = np.zeros((1, 64), dtype=np.float32)

    def context() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=ca)

    with over_http.InferenceServerClient(http_address, ssl=True, ssl_context_factory=context) as client:
        assert client.is_server_live() and client.is_server_ready()
        answers(over_http, client, image, headers)
        assert [model["name"] for model in client.get_model_repository_index(headers=headers)] == ["shop.digits"]
        refuses(over_http, client, image, headers, "403", "401")
        print("ok over https")

    with open(ca, "rb") as file:
        trusted = grpc.ssl_channel_credentials(root_certificates=file.read())
    with over_grpc.InferenceServerClient(grpc_address, ssl=True, creds=trusted) as client:
        assert client.is_server_live() and client.is_server_ready()
        answers(over_grpc, client, image, headers)
        index = client.get_model_repository_index(headers=headers, as_json=True)
        assert [model["name"] for model in index["models"]] == ["shop.digits"], index
        refuses(over_grpc, client, image, headers, "PERMISSION_DENIED", "UNAUTHENTICATED")
        print("ok over grpc with TLS")


def asked(protocol, image: np.ndarray) -> list:
    tensor = protocol.InferInput("image", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    return [tensor]


def answers(protocol, client, image: np.ndarray, headers: dict) -> None:
    # A copy: the client over HTTP writes headers of its own into it.
    result = client.infer("shop.digits", asked(protocol, image), headers=dict(headers))
    assert result.as_numpy("label").shape == (1,), result.get_response()
    assert client.is_model_ready("shop.digits", headers=headers)


def refuses(protocol, client, image: np.ndarray, headers: dict, forbidden: str, unknown: str) -> None:
    for model, more, words in [("bank.digits", headers, forbidden), ("shop.digits", {}, unknown)]:
        try:
            client.infer(model, asked(protocol, image), headers=dict(more))
        except InferenceServerException as error:
            assert words in str(error.status()), error
        else:
            raise AssertionError(f"{model} was answered")


if __name__ == "__main__":
    main(*sys.argv[1:])
