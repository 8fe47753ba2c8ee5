"""The tiers, and where they listen."""

from __future__ import annotations

import dataclasses
import os
import socket

from words import Failure

HOST = "127.0.0.1"
TIERS = ("device", "edge", "cloud")
DEFAULT_PORT = 18000
LOWEST_PORT = 1024
HIGHEST_PORT = 65000


def url(port: int) -> str:
    return f"http://{HOST}:{port}"


@dataclasses.dataclass(frozen=True)
class Ports:
    """Which tier listens where."""

    first: int

    def data(self, tier: str) -> int:
        return self.first + 100 * TIERS.index(tier)

    def grpc(self, tier: str) -> int:
        return self.data(tier) + 1

    def admin(self, tier: str) -> int:
        return self.data(tier) + 2

    @classmethod
    def from_environment(cls) -> Ports:
        text = os.environ.get("TERRACE_QUICKSTART_PORT") or str(DEFAULT_PORT)
        if not text.isdecimal() or not LOWEST_PORT <= int(text) <= HIGHEST_PORT:
            raise Failure(
                f"TERRACE_QUICKSTART_PORT must be a port between {LOWEST_PORT} and {HIGHEST_PORT}, not {text!r}"
            )
        return cls(int(text))

    def taken(self) -> list[str]:
        uses = [(self.data(tier), f"the {tier} agent") for tier in TIERS]
        uses += [(self.grpc(tier), f"the {tier} agent's gRPC") for tier in TIERS]
        uses += [(self.admin(tier), f"the {tier} agent's status") for tier in TIERS]
        return [f"port {port} ({use})" for port, use in uses if not is_free(port)]

    def check_free(self) -> None:
        taken = self.taken()
        if taken:
            others = range(DEFAULT_PORT, HIGHEST_PORT, 1000)
            free = next((first for first in others if not Ports(first).taken()), "N")
            raise Failure(
                f"in use already: {', '.join(taken)}.\n"
                "Is another quickstart running? End it (`ss -ltnp` says who listens), or choose other ports:\n"
                f"  TERRACE_QUICKSTART_PORT={free} make quickstart"
            )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
