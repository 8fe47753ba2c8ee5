"""Three tiers answer the digits test set on this machine, and tables say who did, how well, how fast and why."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from acts import act_cut_off, act_three_tiers, act_update, check_answers
from agents import Site
from asking import Client, read_digits
from checkout import find_agent, find_onnxruntime
from keeping import curl, keep_running
from manifests import check_digests, copy_manifests, pin_manifests
from modes import act_modes
from ports import TIERS, Ports
from signals import Interrupted, Signals
from words import Failure, complain, say

USAGE = f"""{__doc__}

Run by `make quickstart`. Standard library only.

  KEEP=1                          leaves the agents running until Ctrl-C; an agent that ends leaves the others alone
  TERRACE_QUICKSTART_PORT=N       the first port: the device listens on N, the edge on N+100, the cloud on N+200,
                                  each over gRPC one above, and with its status two above
  TERRACE_AGENT_BIN=FILE          another agent than target/release/terrace-agent
  python3 e2e/quickstart --pin    rewrites the digests in e2e/manifests/quickstart/ from e2e/digits/SHA256SUMS"""


def run(site: Site) -> None:
    begun = time.monotonic()
    copy_manifests(site.manifests, site.ports)
    say("\n1. Three agents start with empty disks: each fetches its model, checks it, tries it, and serves it")
    site.start(TIERS)
    digits = read_digits()
    try:
        with contextlib.closing(Client(site.ports.data("device"))) as client:
            act_three_tiers(client, digits)
            site.check_alive()
            check_answers(act_modes(site, client, digits))
            act_cut_off(site, client, digits[:100])
            act_update(site, client, digits)
    except Failure:
        # An agent that has died explains more than the requests that failed with it.
        site.check_alive(seconds=0.5)
        raise
    say(f"\nThat took {time.monotonic() - begun:.1f} s.")


def quickstart(signals: Signals, keep: bool) -> None:
    check_digests()
    ports, binary, onnxruntime = Ports.from_environment(), find_agent(), find_onnxruntime()
    ports.check_free()
    with tempfile.TemporaryDirectory(prefix="terrace-quickstart-") as work:
        site = Site(pathlib.Path(work), ports, binary, onnxruntime, signals)
        try:
            run(site)
            if keep:
                keep_running(site)
        finally:
            signals.ignore()
            site.stop()
    say("The agents have ended.")
    if not keep:
        say(f"`KEEP=1 make quickstart` leaves them running, so that you can ask yourself:\n\n  {curl(ports)}")


def main(arguments: Sequence[str]) -> int:
    if arguments not in ([], ["--pin"]):
        say(USAGE)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        if arguments:
            pin_manifests()
        else:
            quickstart(Signals(), keep=os.environ.get("KEEP", "") not in ("", "0"))
    except Failure as failure:
        complain(str(failure))
        return 1
    except Interrupted as interrupted:
        complain("interrupted; nothing is left running")
        return 128 + interrupted.number
    except BrokenPipeError:
        # Whoever read the tables has left. Python would complain once more about what it could not flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        complain(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
