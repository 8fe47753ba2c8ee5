"""MLServer's side: a custom runtime, because MLServer has none for ONNX. `serve.py` names it in model-settings.json."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from runtime import Model


class OnnxRuntime(MLModel):
    """Every worker process of MLServer's inference pool loads its own."""

    async def load(self) -> bool:
        """Opens the session."""
        self.model = Model(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs the one input, decoded and encoded by MLServer's own codec."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output(self.model.output.name, self.model.run(rows))
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
