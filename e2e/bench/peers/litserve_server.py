"""LitServe's side: `litserve_server.py MODEL.onnx PATH PORT WORKERS MAX_BATCH`.

LitServe has no Open Inference Protocol, and leaves the JSON of requests and responses to its LitAPI: this one reads and
writes the protocol's infer messages at the protocol's path, so that all peers are asked the same. Nothing else of the
protocol is there (no metadata, no health at its paths, no errors by its rules).
"""

import sys
from pathlib import Path

import litserve
import numpy as np

from runtime import Model

BATCH_WAIT_SECONDS = 0.001


class OnnxApi(litserve.LitAPI):
    """Every worker process sets up its own session."""

    def __init__(self, path: str, **settings):
        super().__init__(**settings)
        self.path = path

    def setup(self, device: str) -> None:
        """Opens the session."""
        self.model = Model(self.path)

    def decode_request(self, request: dict) -> np.ndarray:
        """The rows of the one input."""
        (tensor,) = request["inputs"]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def batch(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """All requests' rows, and where each request's end: a request may carry several."""
        return np.concatenate(inputs), np.cumsum([len(rows) for rows in inputs])[:-1].tolist()

    def predict(self, rows):
        """The output rows; of a batch, those of each request."""
        if isinstance(rows, tuple):
            rows, ends = rows
            return np.split(self.model.run(rows), ends)
        return self.model.run(rows)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        """As `predict` has split it."""
        return output

    def encode_response(self, output: np.ndarray) -> dict:
        """The protocol's response."""
        tensor = {"name": self.model.output.name, "datatype": "FP32", "shape": list(output.shape)}
        return {"model_name": Path(self.path).stem, "outputs": [tensor | {"data": output.ravel().tolist()}]}


if __name__ == "__main__":
    model, url_path, port, workers, max_batch = sys.argv[1:]
    # With no wait at all LitServe's batching loop spins on an empty queue.
    batching = {"max_batch_size": int(max_batch), "batch_timeout": BATCH_WAIT_SECONDS if int(max_batch) > 1 else 0}
    api = OnnxApi(model, api_path=url_path, **batching)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers), fast_queue=True)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
