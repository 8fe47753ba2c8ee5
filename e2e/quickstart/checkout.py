"""What the quickstart finds in this checkout."""

from __future__ import annotations

import os
import pathlib
import subprocess

from words import Failure

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "e2e/manifests/quickstart"
DIGITS = ROOT / "e2e/digits"


def find_agent() -> pathlib.Path:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    agent = pathlib.Path(os.environ.get("TERRACE_AGENT_BIN", target / "release/terrace-agent"))
    if not (agent.is_file() and os.access(agent, os.X_OK)):
        raise Failure(f"there is no program {agent}: `make quickstart` builds the agent and starts it")
    return agent.resolve()


def find_onnxruntime() -> pathlib.Path:
    library = os.environ.get("TERRACE_ONNXRUNTIME", "")
    if not library:
        installed = subprocess.run([ROOT / "tools/onnxruntime"], check=False, stdout=subprocess.PIPE, text=True)
        if installed.returncode != 0:
            raise Failure("tools/onnxruntime could not install ONNX Runtime; above it says why")
        library = installed.stdout.strip()
    if not pathlib.Path(library).is_file():
        raise Failure(
            f"ONNX Runtime is missing: there is no {library}.\n"
            "Unset TERRACE_ONNXRUNTIME to have it fetched, or set it to a libonnxruntime.so, version 1.24 or newer."
        )
    return pathlib.Path(library).resolve()
