"""Real agents serve the committed models; exits 1 where they are not as sure, or do not answer, as the scripts say.

Run by `make experiment`. Standard library only. TERRACE_AGENT_BIN and TERRACE_ONNXRUNTIME name what is run.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from page import FOLDER, RESULTS

ROOT = FOLDER.parents[1]
DIGITS = ROOT / "e2e/digits"
TOLERANCE = 1e-5
START_SECONDS = 60
# Nobody listens there.
AWAY = "http://127.0.0.1:9"

MODEL = """apiVersion: terrace.dev/v1alpha1
kind: InferenceModel
metadata: {{name: {name}}}
spec:
  source: {{uri: "file:///models/digits-{tier}.onnx", sha256: "{sha256}"}}
  placement: {{tier: {placed}}}
"""
JUDGED = """  confidence: {{output: probabilities, method: {method}, temperature: {temperature}}}
  upstreams: {{edge: {{model: digits}}, cloud: {{model: digits}}}}
  policyRef: {{name: {name}}}
---
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {{name: {name}}}
spec:
  tiers: {{edge: {{url: "{edge}"}}, cloud: {{url: "{cloud}"}}}}
"""


def model(name: str, tier: str) -> str:
    """The manifest of a committed model."""
    digests = dict(reversed(line.split()) for line in (DIGITS / "SHA256SUMS").read_text().splitlines())
    sha256 = digests[f"models/digits-{tier}.onnx"]
    return MODEL.format(name=name, tier=tier, placed=tier.capitalize(), sha256=sha256)


@contextlib.contextmanager
def agent(tier: str, manifests: dict[str, str]) -> Iterator[str]:
    """An agent that serves these; its base URL."""
    program = os.environ.get("TERRACE_AGENT_BIN", str(ROOT / "target/release/terrace-agent"))
    with tempfile.TemporaryDirectory(prefix="terrace-experiment-") as folder:
        work = Path(folder)
        (work / "manifests").mkdir()
        for name, text in manifests.items():
            (work / "manifests" / f"{name}.yaml").write_text(text)
        flags = {
            "--tier": tier,
            "--manifests": work / "manifests",
            "--data-dir": work / "data",
            "--onnxruntime": os.environ["TERRACE_ONNXRUNTIME"],
            "--file-root": DIGITS,
            "--allow-upstream": "127.0.0.0/8",
            **{f"--listen-{port}": "127.0.0.1:0" for port in ("http", "grpc", "admin")},
        }
        command = [program, *(str(word) for flag in flags.items() for word in flag)]
        with (work / "log").open("w") as log:
            process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, env={})
        try:
            yield f"http://{ready(process, work / 'log')}"
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the data port of an agent, once all of its models serve."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        bound = re.search(r"agent starting .*http=(\S+) .*admin=(\S+)", log.read_text())
        if bound and get(bound[2], "/readyz") == 200:
            return bound[1]
        time.sleep(0.05)
    sys.exit(f"the agent is not ready; its log:\n{log.read_text()}")


def get(address: str, path: str) -> int:
    """The status of an answer."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def answers(url: str, name: str, images: list[list[int]]) -> Iterator[tuple[dict[str, Any], int]]:
    """What a model's agent tells of each image, and its label."""
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)) as connection:
        for image in images:
            tensor = {"name": "image", "datatype": "FP32", "shape": [1, len(image)], "data": image}
            connection.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]}))
            with connection.getresponse() as response:
                body = json.loads(response.read())
            if response.status != 200:
                sys.exit(f"{name}: status {response.status}: {body}")
            outputs = {output["name"]: output["data"] for output in body["outputs"]}
            yield body["parameters"], outputs["label"][0]


def counted(url: str, name: str, test: dict[str, Any]) -> tuple[int, int]:
    """How many images the cloud has part in, and how many are right."""
    up = right = 0
    for (told, label), expected in zip(answers(url, name, test["images"]), test["labels"]):
        up += any(tried["tier"] == "cloud" and tried["outcome"] == "Answered" for tried in json.loads(told["attempts"]))
        right += label == expected
    return up, right


def policies(expected: dict[str, Any]) -> dict[str, tuple[str, str, float, bool, tuple[int, int] | None]]:
    """By name: what is added to the policy, method, temperature, whether the cloud is there, what must be counted."""
    speculative = "  mode: Speculative\n  speculative: {{verifier: Cloud, threshold: {}}}\n"
    ensemble = "  mode: Ensemble\n  ensemble: {{members: [Device, Edge, Cloud], combine: {}{}}}\n"
    found: dict[str, tuple[str, str, float, bool, tuple[int, int] | None]] = {}
    for place, one in enumerate(expected["confidences"]):
        found[f"sure-{place}"] = (speculative.format(0), one["method"], one["temperature"], False, None)
    for threshold, gate in expected["gates"].items():
        name = f"gate-{threshold.replace('.', '-')}"
        found[name] = (speculative.format(threshold), "Probability", 1, True, (gate["sent up"], gate["right"]))
    for combination, one in expected["ensembles"].items():
        weights = f", weights: {one['weights']}" if combination == "WeightedMean" else ""
        added, name = ensemble.format(combination, weights), combination.lower()
        found[name] = (added, "Probability", 1, True, (expected["images"], one["right"]))
        found[f"{name}-cut-off"] = (added, "Probability", 1, False, (0, one["right without cloud"]))
    return found


def main() -> None:
    """Compares."""
    expected = json.loads(RESULTS.read_text())["committed"]
    test = json.loads((DIGITS / "data/digits-test.json").read_text())
    with contextlib.ExitStack() as running:
        edge, cloud = (
            running.enter_context(agent(tier, {"digits": model("digits", tier)})) for tier in ("edge", "cloud")
        )
        asked = policies(expected)
        manifests = {
            name: model(name, "device")
            + JUDGED.format(name=name, method=method, temperature=warmth, edge=edge, cloud=cloud if there else AWAY)
            + added
            for name, (added, method, warmth, there, _) in asked.items()
        }
        device = running.enter_context(agent("device", manifests))
        for place, one in enumerate(expected["confidences"]):
            told = [told["confidence"] for told, _ in answers(device, f"sure-{place}", test["images"])]
            worst = max(abs(mine - theirs) for mine, theirs in zip(one["values"], told))
            print(f"{one['method']}, temperature {one['temperature']}: confidences differ by up to {worst:.1g}")
            if worst > TOLERANCE:
                sys.exit(f"the agent's confidence is not that of the scripts; they may differ by {TOLERANCE}")
        for name, (*_, wanted) in asked.items():
            if wanted is not None:
                found = counted(device, name, test)
                print(f"{name}: {found[0]} answered with the cloud, {found[1]} right")
                if found != wanted:
                    sys.exit(f"the scripts say {wanted[0]} and {wanted[1]}")


if __name__ == "__main__":
    main()
