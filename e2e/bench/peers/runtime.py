"""The model as every peer runs it: one ONNX Runtime session of one thread, so that only what is around it differs."""

import onnxruntime


class Model:
    """A model with one FP32 input and one FP32 output whose first axis is the batch."""

    def __init__(self, path: str):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # A thread that spins takes a core from the server and from the load generator.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        (self.input,), (self.output,) = self._session.get_inputs(), self._session.get_outputs()

    def run(self, rows):
        """The output for these rows, as a NumPy array."""
        return self._session.run([self.output.name], {self.input.name: rows})[0]
