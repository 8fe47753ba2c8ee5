#!/usr/bin/env python3
"""Three tiers answer the digits test set on this machine, and a table says who did, how well, how fast and why.

Run by `make quickstart`. KEEP=1 leaves the agents running until Ctrl-C. Standard library only.
"""

import collections
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "e2e/manifests/quickstart"
AGENT = pathlib.Path(os.environ.get("TERRACE_AGENT_BIN", ROOT / "target/release/terrace-agent"))
if "CARGO_TARGET_DIR" in os.environ and "TERRACE_AGENT_BIN" not in os.environ:
    AGENT = pathlib.Path(os.environ["CARGO_TARGET_DIR"]) / "release/terrace-agent"
READY_SECONDS = 30
STOP_SECONDS = 10

# The device's policy names these ports, so they are fixed.
TIERS = {"device": (18000, 18002), "edge": (18100, 18102), "cloud": (18200, 18202)}

# What a request asks for, by kind.
KINDS = {
    "private": {"privacy_required": True},
    "in a hurry": {"max_latency_ms": 40, "complexity": 0.1},
    "easy": {"complexity": 0.2},
    "as it is": {},
    "hard": {"complexity": 0.9},
}


class Failure(Exception):
    """Ends the quickstart with words that say what to do."""


class Agent:
    """One agent, as a process of its own."""

    def __init__(self, tier: str, manifests: pathlib.Path, work: pathlib.Path):
        self.tier = tier
        self.port, self.admin = TIERS[tier]
        self.log = work / f"{tier}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    AGENT, "--tier", tier, "--manifests", manifests, "--data-dir", work / tier,
                    "--file-root", ROOT / "e2e/digits", "--allow-upstream", "127.0.0.0/8",
                    "--listen-http", f"127.0.0.1:{self.port}", "--listen-admin", f"127.0.0.1:{self.admin}",
                ],
                stderr=log,
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"the {self.tier} agent ended; its last words:\n{self.last_words()}")
            ready = get(self.admin, "/readyz")
            if ready is not None and ready[0] == 200:
                return self.check_serving()
            time.sleep(0.05)
        raise Failure(f"the {self.tier} agent is not ready after {READY_SECONDS} s; its last words:\n{self.last_words()}")

    def check_serving(self) -> None:
        status = json.loads(get(self.admin, "/status")[1])
        for model in status.get("models", []):
            if model["phase"] != "Serving":
                raise Failure(f"the {self.tier} agent does not serve {model['name']}: {model.get('error')}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def get(port: int, path: str):
    """Status and body, or None where nobody answers."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return None


def say(text: str) -> None:
    print(text, flush=True)


class Asked:
    """What came back for one request."""

    def __init__(self, kind: str, label: int, status: int, body: dict, took_ms: float):
        self.kind, self.status, self.took_ms = kind, status, took_ms
        told = body.get("parameters", {})
        self.tier = told.get("tier", "nobody")
        self.source = told.get("source", "-")
        self.reason = told.get("reason", body.get("error", "-"))
        self.version = body.get("model_version")
        outputs = {output["name"]: output["data"] for output in body.get("outputs", [])}
        self.right = outputs.get("label") == [label]


def ask(kinds: dict, images: list, labels: list) -> list:
    """Each image once for each kind, through the device agent, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", TIERS["device"][0], timeout=30)
    answers = []
    for kind, parameters in kinds.items():
        for image, label in zip(images, labels):
            tensor = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image}
            body = json.dumps({"parameters": parameters, "inputs": [tensor]})
            begun = time.perf_counter()
            connection.request("POST", "/v2/models/digits/infer", body)
            response = connection.getresponse()
            text = response.read()
            took_ms = (time.perf_counter() - begun) * 1e3
            answers.append(Asked(kind, label, response.status, json.loads(text), took_ms))
    return answers


def quantile(values: list, share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(title: str, answers: list, key) -> None:
    groups = collections.defaultdict(list)
    for answer in answers:
        groups[key(answer)].append(answer)
    say(f"\n{title:<12} {'requests':>8} {'accuracy':>9} {'p50 ms':>8} {'p99 ms':>8}  reasons")
    for name, group in groups.items():
        times = [answer.took_ms for answer in group]
        right = sum(answer.right for answer in group) / len(group)
        reasons = collections.Counter(answer.reason for answer in group).most_common(3)
        told = ", ".join(f"{reason} {count}" for reason, count in reasons)
        say(f"{name:<12} {len(group):>8} {right:>9.1%} {quantile(times, 0.5):>8.2f} {quantile(times, 0.99):>8.2f}  {told}")


def check(answers: list) -> None:
    """What must hold whatever the machine."""
    failed = [answer for answer in answers if answer.status != 200]
    if failed:
        raise Failure(f"{len(failed)} requests failed; the first: {failed[0].status} {failed[0].reason}")
    strayed = [answer for answer in answers if answer.kind == "private" and answer.tier != "device"]
    if strayed:
        raise Failure(f"{len(strayed)} private requests left the device")


def update_model(folder: pathlib.Path) -> None:
    """What an author does: another artifact, with its digest and its cases, in the manifest."""
    sums = dict(reversed(line.split()) for line in (ROOT / "e2e/digits/SHA256SUMS").read_text().splitlines())
    path = folder / "digits.yaml"
    text = path.read_text()
    for name in ("models/digits-device.onnx", "cases/digits-device.json"):
        better = name.replace("digits-device", "digits-device-r2")
        text = text.replace(name, better).replace(sums[name], sums[better])
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def wait_for_revision(before: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        model = json.loads(get(TIERS["device"][1], "/status")[1])["models"][0]
        if model["phase"] == "Serving" and model["servingRevision"] != before:
            return
        time.sleep(0.05)
    raise Failure(f"the new revision does not serve: {model.get('error')}")


def run(work: pathlib.Path, agents: dict) -> None:
    for binary in (AGENT,):
        if not binary.exists():
            raise Failure(f"{binary} is missing; run `make quickstart`, which builds it")
    for tier, ports in TIERS.items():
        for port in ports:
            if get(port, "/") is not None:
                raise Failure(f"port {port} is in use, and the {tier} agent needs it; end what listens there")
    manifests = work / "manifests"
    shutil.copytree(MANIFESTS, manifests)
    begun = time.monotonic()
    for tier in TIERS:
        agents[tier] = Agent(tier, manifests / tier, work)
    for tier, agent in agents.items():
        say(f"waiting for the {tier} agent on port {agent.port} …")
        agent.wait_ready()
    say(f"three agents fetched, verified and serve their models after {time.monotonic() - begun:.1f} s")

    test = json.loads((ROOT / "e2e/digits/data/digits-test.json").read_text())
    images, labels = test["images"], test["labels"]
    say(f"sending {len(images)} held-out digits in {len(KINDS)} ways through the device agent …")
    answers = ask(KINDS, images, labels)
    table("request", answers, lambda answer: answer.kind)
    table("answered by", answers, lambda answer: answer.tier)
    check(answers)

    say("\nthe edge and the cloud go away; the same requests, the first 60 digits:")
    agents["edge"].stop()
    agents["cloud"].stop()
    alone = ask(KINDS, images[:60], labels[:60])
    table("answered by", alone, lambda answer: f"{answer.tier}/{answer.source}")
    check(alone)

    say("\nthe device's manifest names a better model; it is swapped in:")
    before = alone[0].version
    update_model(manifests / "device")
    wait_for_revision(before)
    updated = ask({"private": KINDS["private"]}, images, labels)
    table("revision", updated, lambda answer: answer.version.removeprefix("imodel-"))
    check(updated)

    if os.environ.get("KEEP") == "1":
        for tier in ("edge", "cloud"):
            agents[tier] = Agent(tier, manifests / tier, work)
            agents[tier].wait_ready()
        say("\nrunning until Ctrl-C; ask:\n")
        say("  curl -s localhost:18000/v2/models/digits/infer -d @e2e/manifests/quickstart/request.json")
        say("\nstatus: " + ", ".join(f"localhost:{admin}/status ({tier})" for tier, (_, admin) in TIERS.items()))
        signal.pause()


def main() -> int:
    agents: dict = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="terrace-quickstart-") as work:
        try:
            run(pathlib.Path(work), agents)
        except Failure as failure:
            say(f"\nquickstart: {failure}")
            return 1
        except KeyboardInterrupt:
            say("\nstopping")
            return 0 if os.environ.get("KEEP") == "1" else 130
        finally:
            for agent in agents.values():
                agent.stop()
    say("\nall agents stopped. KEEP=1 make quickstart leaves them running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
