"""KServe's side: a custom model on its Python server. Takes KServe's own arguments and `--model_path`."""

import argparse

import kserve
from kserve import InferOutput, InferRequest, InferResponse, ModelServer, model_server
from kserve.protocol.rest import server as rest
from kserve.protocol.rest.multiprocess import server as multiprocess
from kserve.utils.utils import generate_uuid

from runtime import Model


class LoopbackServer(rest.RESTServer):
    """KServe listens on every address and has no setting for it."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.config.host = "127.0.0.1"


class OnnxModel(kserve.Model):
    """One session a worker process: a worker is spawned, not forked, and opens its own."""

    def __init__(self, name: str, path: str):
        super().__init__(name)
        self.path = path
        self.load()

    def __reduce__(self):
        return OnnxModel, (self.name, self.path)

    def load(self) -> bool:
        """Opens the session."""
        self.model = Model(self.path)
        self.ready = True
        return self.ready

    def predict(self, payload: InferRequest, headers: dict | None = None) -> InferResponse:
        """Runs the one input; KServe encodes the output as the request wants it."""
        rows = self.model.run(payload.inputs[0].as_numpy())
        output = InferOutput(self.model.output.name, list(rows.shape), "FP32", rows)
        return InferResponse(
            # Its response must have one, as its own model servers' have.
            payload.id or generate_uuid(),
            self.name,
            [output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--model_path", required=True)
    arguments = parser.parse_args()
    for module in (model_server, multiprocess):
        module.RESTServer = LoopbackServer
    ModelServer().start([OnnxModel(arguments.model_name, arguments.model_path)])
