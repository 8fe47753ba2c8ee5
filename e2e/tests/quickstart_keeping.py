"""What the quickstart does with KEEP=1 when agents end, with programs that do nothing in the place of agents."""

from __future__ import annotations

import contextlib
import io
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "quickstart"))
sys.dont_write_bytecode = True

import keeping  # noqa: E402
from agents import Agent  # noqa: E402
from ports import TIERS, Ports  # noqa: E402
from words import Failure  # noqa: E402


class Idle:
    """A site of programs that wait."""

    def __init__(self) -> None:
        self.ports = Ports(20000)
        self.work = self.manifests = pathlib.Path("work")
        self.agents: dict[str, Agent] = {}
        self.start(TIERS)

    def start(self, tiers: list[str]) -> None:
        for tier in tiers:
            process = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
            self.agents[tier] = Agent(tier, self.ports.data(tier), self.ports.admin(tier), self.work / f"{tier}.log", process)

    def kill(self, tier: str) -> None:
        self.agents[tier].process.kill()
        self.agents[tier].process.wait()

    def running(self) -> list[str]:
        return [tier for tier, agent in self.agents.items() if agent.process.poll() is None]


def said(act: object, *arguments: object) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        act(*arguments)  # type: ignore[operator]
    return out.getvalue()


def check_the_others_stay(site: Idle) -> None:
    keeping.can_ask = lambda: True
    watch = keeping.Watch(site, lambda _seconds: False)
    assert said(watch.look) == ""
    site.kill("edge")
    told = said(watch.look)
    assert "the edge agent was killed by SIGKILL" in told, told
    assert "Still there: device, cloud." in told, told
    assert "Enter starts it again" in told, told
    assert said(watch.look) == "", "told once"
    assert site.running() == ["device", "cloud"]
    said(watch.start_again)
    assert sorted(site.running()) == sorted(TIERS)
    assert "Every agent runs" in said(watch.start_again)
    site.kill("edge")
    assert "the edge agent was killed" in said(watch.look), "told of anew"
    print("the others stay, and the one that ended is started again")


def check_nobody_can_ask(site: Idle) -> None:
    keeping.can_ask = lambda: False
    watch = keeping.Watch(site, lambda _seconds: False)
    assert "End this quickstart and start it again" in said(watch.look)
    for tier in TIERS:
        site.kill(tier)
    try:
        said(watch.look)
    except Failure as failure:
        assert str(failure) == "no agent is left"
    else:
        raise AssertionError("goes on without agents")
    print("where none is left and nobody can ask for one, it ends")


def check_invitation(site: Idle) -> None:
    told = said(keeping.invite, site)
    for word in ("localhost:20001    # device", "localhost:20201    # cloud", f"kill -{signal.SIGKILL.value} "):
        assert word in told, (word, told)
    print("ports of gRPC are told")


def main() -> None:
    site = Idle()
    try:
        check_invitation(site)
        check_the_others_stay(site)
        check_nobody_can_ask(site)
    finally:
        for tier in TIERS:
            site.kill(tier)


if __name__ == "__main__":
    main()
