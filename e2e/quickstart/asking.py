"""Digits, what is asked for with them, and what comes back."""

from __future__ import annotations

import dataclasses
import http.client
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from agents import READY_SECONDS
from checkout import DIGITS
from ports import HOST
from words import Failure


@dataclasses.dataclass(frozen=True)
class Digit:
    """A held-out image, and which digit it is."""

    image: list[int]
    label: int


def read_digits() -> list[Digit]:
    test = json.loads((DIGITS / "data/digits-test.json").read_text())
    return [Digit(image, label) for image, label in zip(test["images"], test["labels"])]


@dataclasses.dataclass(frozen=True)
class Requirement:
    """What a request asks for, beside an answer. The parameters may depend on the number of the request."""

    name: str
    told: str
    parameters: Callable[[int], dict[str, Any]]
    model: str = "digits"


def hurry(number: int) -> int:
    return 20 + number % 30


PRIVATE = Requirement("private", "privacy_required", lambda _: {"privacy_required": True})
PLAIN = Requirement("nothing", "", lambda _: {})
HARD = Requirement("hard", "complexity 0.9", lambda _: {"complexity": 0.9})
REQUIREMENTS = (
    PRIVATE,
    Requirement(
        "easy, in a hurry",
        "complexity 0.1, max_latency_ms 20-49",
        lambda number: {"complexity": 0.1, "max_latency_ms": hurry(number)},
    ),
    Requirement("in a hurry", "max_latency_ms 20-49", lambda number: {"max_latency_ms": hurry(number)}),
    Requirement("easy", "complexity 0.1", lambda _: {"complexity": 0.1}),
    PLAIN,
    HARD,
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    requirement: Requirement
    status: int
    tier: str
    source: str
    reason: str
    revision: str
    right: bool
    took_ms: float
    wasted_ms: float
    failed_attempts: tuple[str, ...]
    sent_up: bool
    error: str


class Client:
    """Asks the device for digits, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=READY_SECONDS)
        self._sent = 0

    def close(self) -> None:
        self._connection.close()

    def ask(self, digit: Digit, requirement: Requirement) -> Answer:
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": digit.image}
        request = {"parameters": requirement.parameters(self._sent), "inputs": [tensor]}
        self._sent += 1
        body = json.dumps(request).encode()
        begun = time.perf_counter()
        try:
            path = f"/v2/models/{requirement.model}/infer"
            self._connection.request("POST", path, body, {"content-type": "application/json"})
            with self._connection.getresponse() as response:
                status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"the device agent does not answer: {error!r}") from None
        took_ms = (time.perf_counter() - begun) * 1e3
        return understand(requirement, status, json.loads(text), digit.label, took_ms)


def understand(requirement: Requirement, status: int, body: dict[str, Any], label: int, took_ms: float) -> Answer:
    told = body.get("parameters", {})
    outputs = {output["name"]: output["data"] for output in body.get("outputs", [])}
    attempts = json.loads(told.get("attempts", "[]"))
    failed = [attempt for attempt in attempts if attempt["outcome"] != "Answered"]
    return Answer(
        requirement=requirement,
        status=status,
        tier=told.get("tier", "nobody"),
        source=told.get("source", ""),
        reason=told.get("reason", f"status {status}"),
        revision=body.get("model_version", ""),
        right=outputs.get("label") == [label],
        took_ms=took_ms,
        wasted_ms=sum(attempt["ms"] for attempt in failed),
        failed_attempts=tuple(f"{attempt['tier']} {attempt['outcome']}" for attempt in failed),
        sent_up=any(attempt["tier"] != "device" for attempt in attempts),
        error=body.get("error", ""),
    )


def ask_all(client: Client, digits: Sequence[Digit], requirements: Sequence[Requirement]) -> list[Answer]:
    return [client.ask(digit, requirement) for digit in digits for requirement in requirements]
