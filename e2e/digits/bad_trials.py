"""Shows on ONNX Runtime that each bad input does the harm it is named for.

`python bad_trials.py FILE` is the child process of one trial: in 1 GiB of address space it loads the file, runs it once
for at most three seconds, and prints how far it came.
"""

import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime

from contract import PIXELS, load

MEMORY_BYTES = 2**30
RUN_SECONDS = 3
TRIAL_SECONDS = 60

# The good model shows that the limits leave room for one.
EXPECTED = {
    "models/digits-device.onnx": "answers [1, 10]",
    "bad/junk.onnx": "fails to load",
    "bad/truncated.onnx": "fails to load",
    "bad/wrong-shape.onnx": "answers [1, 9]",
    "bad/memory-bomb.onnx": "runs out of memory at load",
    "bad/memory-bomb-at-run.onnx": "runs out of memory at its first run",
    "bad/endless-loop.onnx": "runs until it is terminated",
}


def trial(file: Path) -> str:
    """What a file does, tried in a child process."""
    command = [sys.executable, __file__, str(file)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        return "does not end"
    return child.stdout.strip() or f"ends the process with status {child.returncode}: {child.stderr.strip()[-300:]}"


def attempt(model: bytes) -> str:
    """The child's side: load, run, say what happened."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        session = load(model)
    except Exception as error:  # ONNX Runtime has a dozen types; the text tells them apart
        return "runs out of memory at load" if out_of_memory(error) else "fails to load"
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    deadline = threading.Timer(RUN_SECONDS, lambda: setattr(options, "terminate", True))
    deadline.start()
    try:
        probabilities, _ = session.run(None, {"image": np.ones((1, PIXELS), dtype=np.float32)}, options)
    except Exception as error:
        if "terminate flag" in str(error):
            return "runs until it is terminated"
        return "runs out of memory at its first run" if out_of_memory(error) else "fails to run"
    finally:
        deadline.cancel()
    return f"answers {list(probabilities.shape)}"


def out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime says that an allocation failed."""
    return any(words in str(error) for words in ("bad_alloc", "Failed to allocate memory"))


if __name__ == "__main__":
    print(attempt(Path(sys.argv[1]).read_bytes()))
