"""Agents as processes: started, waited for, stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Any

from checkout import DIGITS
from ports import HOST, TIERS, Ports, url
from signals import Signals
from words import Failure, say

READY_SECONDS = 30
STOP_SECONDS = 10
LAST_LINES = 8


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far an agent is with its model."""

    phase: str
    revision: str = ""


@dataclasses.dataclass
class Agent:
    """One agent, as a process of its own."""

    tier: str
    port: int
    admin: int
    log: pathlib.Path
    process: subprocess.Popen[bytes]
    started: float = dataclasses.field(default_factory=time.monotonic)

    def standing(self) -> Standing:
        """How far it is with the model that is behind the others; a `Failure` where it will not get further."""
        try:
            status = get_json(self.admin, "/status")
        except (OSError, http.client.HTTPException):
            self.check_alive()
            return Standing("Starting")
        for condition in status.get("conditions", []):
            if condition["type"] == "ManifestsAccepted" and condition["status"] == "False":
                raise Failure(f"the {self.tier} agent refuses a manifest: {condition['message']}")
        models = list(status.get("models", []))
        for model in models:
            error = model.get("error")
            if error:
                raise Failure(f"the {self.tier} agent cannot serve a model: {error['reason']}: {error['message']}")
        models.sort(key=lambda model: model["phase"] == "Serving")
        return Standing(models[0]["phase"], models[0].get("servingRevision", "")) if models else Standing("Starting")

    def ended(self) -> str | None:
        """How it has ended, if it has."""
        code = self.process.poll()
        if code is None:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"the {self.tier} agent {how}"

    def check_alive(self) -> None:
        ended = self.ended()
        if ended is not None:
            raise Failure(f"{ended}. The end of its log:\n{self.end_of_log()}")

    def end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (nothing)"

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def wait_stopped(self) -> None:
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def get_json(port: int, path: str) -> Any:
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


@dataclasses.dataclass
class Site:
    """The agents of this run, and the folders they live in."""

    work: pathlib.Path
    ports: Ports
    binary: pathlib.Path
    onnxruntime: pathlib.Path
    signals: Signals
    agents: dict[str, Agent] = dataclasses.field(default_factory=dict)

    @property
    def manifests(self) -> pathlib.Path:
        return self.work / "manifests"

    def start(self, tiers: Iterable[str]) -> None:
        """Starts agents, and returns when each serves its model."""
        waiting = []
        for tier in tiers:
            with self.signals.held():
                self.agents[tier] = self._spawn(tier)
            waiting.append(self.agents[tier])
        wait_serving(waiting)

    def _spawn(self, tier: str) -> Agent:
        port, admin, log = self.ports.data(tier), self.ports.admin(tier), self.work / f"{tier}.log"
        arguments = {
            "--tier": tier,
            "--manifests": str(self.manifests / tier),
            "--data-dir": str(self.work / "data" / tier),
            "--onnxruntime": str(self.onnxruntime),
            "--file-root": str(DIGITS),
            "--allow-upstream": "127.0.0.0/8",
            "--listen-http": f"{HOST}:{port}",
            "--listen-grpc": f"{HOST}:{self.ports.grpc(tier)}",
            "--listen-admin": f"{HOST}:{admin}",
        }
        command = [str(self.binary), *(word for flag in arguments.items() for word in flag)]
        # A TERRACE_* variable of whoever runs this is not meant for these agents.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TERRACE_")}
        with log.open("ab") as output:
            try:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            except OSError as error:
                raise Failure(f"{self.binary} cannot be started: {error.strerror}") from None
        return Agent(tier, port, admin, log, process)

    def stop(self, tiers: Iterable[str] = TIERS) -> None:
        agents = [self.agents[tier] for tier in tiers if tier in self.agents]
        for agent in agents:
            agent.ask_to_stop()
        for agent in agents:
            agent.wait_stopped()
            del self.agents[agent.tier]

    def check_alive(self, seconds: float = 0) -> None:
        """A `Failure` if an agent has ended, or does so within these seconds."""
        deadline = time.monotonic() + seconds
        while True:
            for agent in self.agents.values():
                agent.check_alive()
            if time.monotonic() >= deadline:
                return
            time.sleep(0.02)


def wait_serving(agents: Sequence[Agent]) -> None:
    waiting = list(agents)
    deadline = time.monotonic() + READY_SECONDS
    next_word = time.monotonic() + 2
    while waiting:
        for agent in tuple(waiting):
            standing = agent.standing()
            if standing.phase == "Serving":
                waiting.remove(agent)
                took = time.monotonic() - agent.started
                say(f"  {agent.tier:<6}  {url(agent.port)}  serves {standing.revision} after {took:.2f} s")
        if waiting and time.monotonic() > next_word:
            next_word = time.monotonic() + 2
            say(f"  still waiting for {standings(waiting)}")
        if waiting and time.monotonic() > deadline:
            raise Failure(
                f"not serving after {READY_SECONDS} s: {standings(waiting)}. "
                f"The end of the {waiting[0].tier} agent's log:\n{waiting[0].end_of_log()}"
            )
        time.sleep(0.02)


def standings(agents: Sequence[Agent]) -> str:
    return ", ".join(f"{agent.tier} ({agent.standing().phase})" for agent in agents)
