"""The acts of the quickstart, and what must hold in each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from agents import READY_SECONDS, Site
from asking import HARD, PLAIN, PRIVATE, REQUIREMENTS, Answer, Client, Digit, ask_all
from manifests import name_better_model
from ports import TIERS
from tables import FIGURES, accuracy, figures, grouped, show_mix, table
from words import Failure, say

# The share of requests that may miss their deadline: 20 ms are not much for a busy machine. The tables show them.
LATE_SHARE = 0.01


def act_three_tiers(client: Client, digits: Sequence[Digit]) -> None:
    say(f"\n2. {len(digits)} held-out digits go to the device, each with {len(REQUIREMENTS)} different requirements")
    answers = ask_all(client, digits, REQUIREMENTS)
    show_mix(answers)
    check_answers(answers, LATE_SHARE)
    check_better_upwards(answers)
    say("\n  The rules that chose stand in e2e/manifests/quickstart/device/policy.yaml.")


def act_cut_off(site: Site, client: Client, digits: Sequence[Digit]) -> None:
    say("\n4. The edge ends, too; requests that would go there are answered all the same")
    site.stop(("edge", "cloud"))
    answers = ask_all(client, digits, (PLAIN, HARD))
    rows = []
    for tried, group in grouped(answers, lambda answer: ", ".join(answer.failed_attempts)).items():
        wasted = statistics.median(answer.wasted_ms for answer in group)
        rows.append([f"{group[0].tier}, as {group[0].source}", *figures(group), tried, f"{wasted:.2f}"])
    table(("answered by", *FIGURES, "tried before", "ms wasted, p50"), rows)
    check_answers(answers)
    check_fell_back(answers)


def act_update(site: Site, client: Client, digits: Sequence[Digit]) -> None:
    say("\n5. The device's manifest names a better model while requests go on")
    answers = ask_all(client, digits, (PRIVATE,))
    old = answers[-1].revision
    name_better_model(site.manifests / "device")
    changed = time.monotonic()
    meanwhile = 0
    while answers[-1].revision == old:
        answers.append(client.ask(digits[meanwhile % len(digits)], PRIVATE))
        meanwhile += 1
        standing = site.agents["device"].standing()
        if time.monotonic() > changed + READY_SECONDS:
            raise Failure(f"the new revision does not serve after {READY_SECONDS} s; it is {standing.phase}")
    swapped = time.monotonic() - changed
    answers += ask_all(client, digits, (PRIVATE,))
    by_revision = grouped(answers, lambda answer: answer.revision or "none")
    table(("model_version", *FIGURES), [[revision, *figures(group)] for revision, group in by_revision.items()])
    check_answers(answers)
    say(f"\n  Swapped {swapped:.2f} s after the file changed; {meanwhile} requests came meanwhile, and none failed.")


def check_answers(answers: Sequence[Answer], late_share: float = 0) -> None:
    failed = [answer for answer in answers if answer.status != 200]
    late = [answer for answer in failed if answer.status == 504]
    if len(late) < len(failed) or len(late) > late_share * len(answers):
        first = next((answer for answer in failed if answer.status != 504), failed[0])
        raise Failure(
            f"{len(failed)} of {len(answers)} requests failed. "
            f"One of them ({first.requirement.name}): status {first.status}: {first.error}"
            + ("\nIs this machine busy?" if first.status == 504 else "")
        )
    if late:
        say(f"\n  {len(late)} of {len(answers)} missed their deadline (status 504): is this machine busy?")
    strayed = sum(answer.requirement is PRIVATE and answer.tier != "device" for answer in answers)
    if strayed:
        raise Failure(f"{strayed} private requests left the device")


def check_better_upwards(answers: Sequence[Answer]) -> None:
    by_tier = grouped(answers, lambda answer: answer.tier)
    missing = [tier for tier in TIERS if tier not in by_tier]
    if missing:
        raise Failure(f"no request was answered by: {', '.join(missing)}")
    shares = [accuracy(by_tier[tier]) for tier in TIERS]
    if not shares[0] < shares[1] < shares[2]:
        told = ", ".join(f"{tier} {share:.1%}" for tier, share in zip(TIERS, shares))
        raise Failure(f"the upper tiers should be better, and are not: {told}")


def check_fell_back(answers: Sequence[Answer]) -> None:
    strayed = [answer for answer in answers if (answer.tier, answer.source) != ("device", "fallback")]
    if strayed:
        raise Failure(f"{len(strayed)} requests were not answered by the device as fallback")
