"""The act of the modes: what asking a second tier, or several at once, buys."""

from __future__ import annotations

from collections.abc import Sequence

from agents import Site
from asking import Answer, Client, Digit, Requirement, ask_all
from tables import FIGURES, accuracy, counts, figures, grouped, table
from words import Failure, say

# Of the digits, fewer than so many should need the cloud: else speculation saves nothing.
MOST_VERIFIED = 0.5

DEVICE = Requirement("the device alone", "tier device", lambda _: {"tier": "device"})
EDGE = Requirement("the edge alone", "tier edge", lambda _: {"tier": "edge"})
CLOUD = Requirement("the cloud alone", "tier cloud", lambda _: {"tier": "cloud"})
SPECULATIVE = Requirement("speculative", "", lambda _: {}, "digits-speculative")
ENSEMBLE = Requirement("ensemble", "", lambda _: {}, "digits-ensemble")


def act_modes(site: Site, client: Client, digits: Sequence[Digit]) -> list[Answer]:
    say(
        "\n3. The same digits under policies of other modes"
        "\n\n  speculative   the device answers, and the cloud where the device is not sure"
        "\n  ensemble      all three answer at once; their probabilities are averaged"
    )
    answers = ask_all(client, digits, (DEVICE, EDGE, CLOUD, SPECULATIVE, ENSEMBLE))
    show_modes(answers)
    check_verified(answers)
    say(
        "\n  Speculation comes near the cloud and sends few requests there. An ensemble need not beat its best member;"
        "\n  what it buys shows when that one is gone."
    )
    say("\n  The policies stand in e2e/manifests/quickstart/device/{speculative,ensemble}.yaml. Now the cloud ends:")
    site.stop(("cloud",))
    left = ask_all(client, digits, (DEVICE, SPECULATIVE, ENSEMBLE))
    show_modes(left)
    check_without_cloud(left)
    return answers + left


def show_modes(answers: Sequence[Answer]) -> None:
    rows = []
    for name, group in grouped(answers, lambda answer: answer.requirement.name).items():
        up = sum(answer.sent_up for answer in group) / len(group)
        rows.append([name, *figures(group), f"{up:.0%}", counts(answer.source for answer in group)])
    table(("who answers", *FIGURES, "sent up", "source"), rows)


def check_verified(answers: Sequence[Answer]) -> None:
    by = grouped(answers, lambda answer: answer.requirement.name)
    shares = {requirement: accuracy(by[requirement.name]) for requirement in (DEVICE, CLOUD, SPECULATIVE, ENSEMBLE)}
    for better in (SPECULATIVE, ENSEMBLE):
        if shares[better] <= shares[DEVICE]:
            raise Failure(f"{better.name} should be better than the device alone, and is not: {shares[better]:.1%}")
    verified = sum(answer.source == "verifier" for answer in by[SPECULATIVE.name]) / len(by[SPECULATIVE.name])
    if not 0 < verified < MOST_VERIFIED:
        raise Failure(f"{verified:.0%} of the speculative requests were verified; some should be, and not most")
    strayed = [answer for answer in by[ENSEMBLE.name] if answer.tier != "ensemble" or answer.failed_attempts]
    if strayed:
        raise Failure(f"{len(strayed)} requests to the ensemble lacked a member: {strayed[0].failed_attempts}")


def check_without_cloud(answers: Sequence[Answer]) -> None:
    by = grouped(answers, lambda answer: answer.requirement.name)
    sources = {answer.source for answer in by[SPECULATIVE.name]}
    if sources != {"primary", "unverified"}:
        raise Failure(f"without the cloud, what the device is not sure of should be unverified, and is: {sources}")
    if accuracy(by[ENSEMBLE.name]) <= accuracy(by[DEVICE.name]):
        raise Failure("the members that are left should be better than the device alone, and are not")
