"""Agents that go on running when the acts are over, for whoever wants to try them."""

from __future__ import annotations

import pathlib
import select
import signal
import sys
import time
from collections.abc import Callable

from agents import Agent, Site
from checkout import MANIFESTS, ROOT
from ports import Ports
from signals import Interrupted
from words import Failure, complain, say

LOOK_SECONDS = 0.5


def keep_running(site: Site) -> None:
    """Until Ctrl-C. An agent that ends takes no other with it: ending one is what people try."""
    say("\n6. The edge and the cloud come back, from what they have on disk")
    site.start(("edge", "cloud"))
    invite(site)
    try:
        Watch(site, asked_for).follow()
    except Interrupted as interrupted:
        if interrupted.number != signal.SIGINT:
            raise
        say("\nstopping")


class Watch:
    """Says which agents have ended, and starts them again when it is asked to."""

    def __init__(self, site: Site, asked: Callable[[float], bool]) -> None:
        self._site = site
        self._asked = asked
        self._told: set[str] = set()

    def follow(self) -> None:
        while True:
            self.look()
            if self._asked(LOOK_SECONDS):
                self.start_again()

    def look(self) -> None:
        """Tells once of each agent that has ended. A `Failure` where none is left and nobody could ask for one."""
        for agent in self._gone():
            if agent.tier not in self._told:
                self._told.add(agent.tier)
                self._tell(agent)
        if not self._left() and not can_ask():
            raise Failure("no agent is left")

    def start_again(self) -> None:
        gone = [agent.tier for agent in self._gone()]
        if not gone:
            say("Every agent runs. Ctrl-C ends them.")
            return
        self._told.clear()
        try:
            self._site.start(gone)
        except Failure as failure:
            complain(str(failure))

    def _tell(self, agent: Agent) -> None:
        say(f"\n{agent.ended()}. Its log: {agent.log}")
        left = self._left()
        if "device" in left:
            say(f"Still there: {', '.join(left)}. Ask again: `attempts` in an answer says what was tried before.")
        elif left:
            say(f"Still there: {', '.join(left)}, each on its own port.")
        if can_ask():
            say("Enter starts it again. Ctrl-C ends them all.")
        else:
            say("End this quickstart and start it again to have it back.")

    def _gone(self) -> list[Agent]:
        return [agent for agent in self._site.agents.values() if agent.ended() is not None]

    def _left(self) -> list[str]:
        return [agent.tier for agent in self._site.agents.values() if agent.ended() is None]


def can_ask() -> bool:
    """Whether somebody sits there who may press Enter."""
    return sys.stdin is not None and sys.stdin.isatty()


def asked_for(seconds: float) -> bool:
    """Waits so long for Enter."""
    if not can_ask():
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and bool(sys.stdin.readline())


def invite(site: Site) -> None:
    """What to do with agents that go on running."""
    say(f"\nAsk:\n\n  {curl(site.ports)}\n\nSee what each agent says of itself (also /metrics, /readyz):\n")
    for agent in site.agents.values():
        say(f"  curl -s localhost:{agent.admin}/status    # {agent.tier}")
    say("\nAsk over gRPC, in plain text:\n")
    for tier in site.agents:
        say(f"  localhost:{site.ports.grpc(tier)}    # {tier}")
    say("\nEnd one, and ask again: the others stay, and answer without it:\n")
    for agent in site.agents.values():
        if agent.tier != "device":
            say(f"  kill -9 {agent.process.pid}    # {agent.tier}")
    say(f"\nEdit what they follow, and read what they make of it:\n\n  {site.manifests}/\n  {site.work}/device.log")
    say("\nCtrl-C ends them.")


def curl(ports: Ports) -> str:
    request = MANIFESTS / "request.json"
    if pathlib.Path.cwd() == ROOT:
        request = request.relative_to(ROOT)
    return f"curl -s localhost:{ports.data('device')}/v2/models/digits/infer -d @{request}"
