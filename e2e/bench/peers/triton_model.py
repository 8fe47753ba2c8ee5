"""Triton's side: a model of its Python backend. `serve.py` lays it out as model.py in a model repository.

PEER_MODEL names the ONNX file and PEER_MAX_BATCH the largest batch; triton.pbtxt has the rest of the configuration.
"""

import os

import numpy as np
import triton_python_backend_utils as triton

from runtime import Model


class TritonPythonModel:
    """Every instance is a process with its own session."""

    @staticmethod
    def auto_complete_config(config):
        """Tells Triton the tensors that the ONNX file has, and switches dynamic batching on."""
        model = Model(os.environ["PEER_MODEL"])
        config.add_input(described(model.input))
        config.add_output(described(model.output))
        config.set_max_batch_size(int(os.environ["PEER_MAX_BATCH"]))
        # Without a delay: what is queued is batched, and nothing waits for more.
        config.set_dynamic_batching()
        return config

    def initialize(self, args: dict) -> None:
        """Opens the session."""
        self.model = Model(os.environ["PEER_MODEL"])

    def execute(self, requests: list) -> list:
        """Runs all requests that Triton hands over as one batch."""
        inputs = [triton.get_input_tensor_by_name(request, self.model.input.name).as_numpy() for request in requests]
        output = self.model.run(np.concatenate(inputs) if len(inputs) > 1 else inputs[0])
        ends = np.cumsum([len(rows) for rows in inputs])[:-1]
        return [self.response(rows) for rows in np.split(output, ends)]

    def response(self, rows: np.ndarray):
        """One request's output."""
        return triton.InferenceResponse([triton.Tensor(self.model.output.name, rows)])


def described(tensor) -> dict:
    """An input or output in the configuration's words, where the batch axis is left out."""
    return {"name": tensor.name, "data_type": "TYPE_FP32", "dims": tensor.shape[1:]}
