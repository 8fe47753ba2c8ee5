"""Answers, counted and shown."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence

from asking import REQUIREMENTS, Answer
from ports import TIERS
from words import say

FIGURES = ("requests", "accuracy", "p50 ms", "p99 ms")


def grouped(answers: Iterable[Answer], key: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = collections.defaultdict(list)
    for answer in answers:
        groups[key(answer)].append(answer)
    return groups


def accuracy(answers: Sequence[Answer]) -> float:
    return sum(answer.right for answer in answers) / len(answers)


def quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def counts(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in collections.Counter(words).most_common())


def figures(answers: Sequence[Answer]) -> list[str]:
    times = [answer.took_ms for answer in answers]
    return [
        str(len(answers)),
        f"{accuracy(answers):.1%}",
        f"{quantile(times, 0.5):.2f}",
        f"{quantile(times, 0.99):.2f}",
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they must be; figures to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    say()
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if column in FIGURES else cell.ljust(width)
            for cell, column, width in zip(row, columns, widths)
        ]
        say("  " + "   ".join(cells).rstrip())


def show_mix(answers: Sequence[Answer]) -> None:
    by_tier = grouped(answers, lambda answer: answer.tier)
    rows = [
        [tier, *figures(by_tier[tier]), counts(a.reason for a in by_tier[tier])]
        for tier in (*TIERS, "nobody")
        if tier in by_tier
    ]
    table(("answered by", *FIGURES, "reasons"), rows)
    by_name = grouped(answers, lambda answer: answer.requirement.name)
    rows = [[r.name, r.told, *figures(by_name[r.name]), counts(a.tier for a in by_name[r.name])] for r in REQUIREMENTS]
    table(("asked for", "parameters", *FIGURES, "answered by"), rows)
