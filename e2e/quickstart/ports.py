"""The tiers, and where they listen."""

from __future__ import annotations

import dataclasses
import os
import socket

from words import Failure

HOST = "127.0.0.1"
TIERS = ("device", "edge", "cloud")
DEFAULT_PORT = 18000


def url(port: int) -> str:
    return f"http://{HOST}:{port}"


@dataclasses.dataclass(frozen=True)
class Ports:
    """Which tier listens where."""

    first: int

    def data(self, tier: str) -> int:
        return self.first + 100 * TIERS.index(tier)

    def admin(self, tier: str) -> int:
        return self.data(tier) + 2

    @classmethod
    def from_environment(cls) -> Ports:
        text = os.environ.get("TERRACE_QUICKSTART_PORT", str(DEFAULT_PORT))
        if not text.isdigit() or not 1024 <= int(text) <= 65000:
            raise Failure(f"TERRACE_QUICKSTART_PORT must be a port between 1024 and 65000, not {text!r}")
        return cls(int(text))

    def check_free(self) -> None:
        uses = [(self.data(tier), f"the {tier} agent") for tier in TIERS]
        uses += [(self.admin(tier), f"the {tier} agent's status") for tier in TIERS]
        taken = [f"port {port} ({use})" for port, use in uses if not is_free(port)]
        if taken:
            raise Failure(
                f"in use already: {', '.join(taken)}.\n"
                "Is another quickstart running? End it, or choose other ports:\n"
                f"  TERRACE_QUICKSTART_PORT={self.first + 1000} make quickstart"
            )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
