"""Writes docs/experiment.md from page.md and results.json; `page.py --check` exits 1 where it is not what it would write.

Standard library only: the tests run it with any Python.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]
RESULTS = FOLDER / "results.json"
TEMPLATE = Path(__file__).with_name("page.md")
PAGE = FOLDER.parent / "experiment.md"

Figures = dict[str, Any]
GATES = ("0.5", "0.8", "0.9", "0.99")
METHODS = ("Probability", "Margin", "Entropy")
KINDS = {"raw": "", "tempered": ", with temperature"}
MEASURES = ("Entropy", "InputSize", "Expression", "confidence")
TIERS = ("device", "edge", "cloud")
COMBINATIONS = ("Mean", "WeightedMean", "Vote", "MaxConfidence")
ENSEMBLES = {"all": "all three", "no edge": "the edge is away", "no cloud": "the cloud is away"}


def percent(pair: Sequence[float]) -> str:
    """`97.6 ± 0.5`"""
    return f"{100 * pair[0]:.1f} ± {100 * pair[1]:.1f}"


def points(pair: Sequence[float]) -> str:
    """`+0.3 ± 0.2`"""
    return f"{100 * pair[0]:+.1f} ± {100 * pair[1]:.1f}".replace("-", "−")


def short(pair: Sequence[float]) -> str:
    """`97.6`"""
    return f"{100 * pair[0]:.1f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first column to the left, figures to the right."""
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_set(sets: Figures, cell: Callable[[Figures], str]) -> list[str]:
    """A cell for each data set."""
    return [cell(one["figures"]) for one in sets.values()]


def titles(sets: Figures) -> list[str]:
    return [one["title"] for one in sets.values()]


def gates(sets: Figures) -> str:
    """What thresholds on the raw probability give."""

    def at(threshold: str) -> Callable[[Figures], str]:
        def cell(figures: Figures) -> str:
            gate = figures["methods"]["Probability"]["raw"]["gates"][threshold]
            return f"{percent(gate['accuracy'])} at {100 * gate['share'][0]:.0f}"

        return cell

    def at_random(figures: Figures) -> str:
        gate = figures["methods"]["Probability"]["raw"]["gates"]["0.9"]
        return f"{percent(gate['random'])} at {100 * gate['share'][0]:.0f}"

    def oracle(figures: Figures) -> str:
        return f"{percent(figures['oracle']['accuracy'])} at {100 * figures['oracle']['share'][0]:.0f}"

    rows = [["device alone", *by_set(sets, lambda figures: percent(figures["accuracy"]["device"]))]]
    rows += [[f"threshold {threshold}", *by_set(sets, at(threshold))] for threshold in GATES]
    rows += [["at random, as many as at 0.9", *by_set(sets, at_random)]]
    rows += [["cloud alone", *by_set(sets, lambda figures: percent(figures["accuracy"]["cloud"]))]]
    rows += [["oracle", *by_set(sets, oracle)]]
    return table(["", *titles(sets)], rows)


def captured(sets: Figures) -> str:
    """Which part of what an oracle would gain over random sending each method gains."""
    rows = []
    for method in METHODS:
        for kind, told in KINDS.items():
            found = by_set(sets, lambda figures: percent(figures["methods"][method][kind]["captured"]))
            up = sets["digits"]["figures"]["methods"][method][kind]["gates"]["0.9"]["share"]
            rows.append([f"{method}{told}", *found, short(up)])
    return table(["", *titles(sets), "digits sent up at 0.9"], rows)


def trust(sets: Figures) -> str:
    """What an answer above 0.9 is worth."""
    rows = []
    for one in sets.values():
        for kind, told in KINDS.items():
            found = one["figures"]["trust"][kind]
            right, sure = found["kept accuracy"], found["kept confidence"]
            cells = [short(found["kept"]), short(sure), percent(right), percent(found["error"])]
            rows.append([f"{one['title']}{told}", *cells])
    return table(["", "kept above 0.9", "confidence of these", "right of these", "calibration error, all"], rows)


def complexity(sets: Figures) -> str:
    """How well each measure finds the device's errors."""
    rows = []
    for measure in MEASURES:

        def cell(figures: Figures) -> str:
            mean, half = figures["complexity"]["auc"][measure]
            text = f"{mean:.2f} ± {half:.2f}"
            return f"**{text}**" if mean - half > 0.5 else text

        name = "1 − confidence of the device's answer" if measure == "confidence" else f"{measure}"
        rows.append([name, *by_set(sets, cell)])
    return table(["", *titles(sets)], rows)


def ensemble(sets: Figures) -> str:
    """Members, and what they are worth together."""
    rows = [[f"{tier} alone", *by_set(sets, lambda figures: percent(figures["accuracy"][tier]))] for tier in TIERS]
    for name, told in ENSEMBLES.items():
        for combination in COMBINATIONS:

            def cell(figures: Figures) -> str:
                found = figures["ensemble"][name]
                return f"{short(found['accuracy'][combination])} ({points(found['over highest'][combination])})"

            rows.append([f"{combination}, {told}", *by_set(sets, cell)])
    return table(["", *titles(sets)], rows)


def committed(results: Figures) -> str:
    """What policies make of the committed models."""
    reference = results["committed"]
    images = reference["images"]

    def share(count: int) -> str:
        return f"{count} ({count / images:.1%})"

    rows = [
        [f"Speculative, threshold {threshold}", share(gate["sent up"]), share(gate["right"])]
        for threshold, gate in reference["gates"].items()
    ]
    for combination, found in reference["ensembles"].items():
        weights = f" {found['weights']}" if combination == "WeightedMean" else ""
        rows.append([f"Ensemble, {combination}{weights}", share(images), share(found["right"])])
        rows.append(["the same, the cloud is away", share(0), share(found["right without cloud"])])
    return table(["", f"answered with the cloud, of {images}", "right"], rows)


TABLES: dict[str, Callable[[Figures], str]] = {
    "gates": gates,
    "captured": captured,
    "trust": trust,
    "complexity": complexity,
    "ensemble": ensemble,
}
FORMATS: dict[str, Callable[[Any], str]] = {
    "%": lambda pair: f"{100 * pair[0]:.1f} %",
    "0%": lambda pair: f"{100 * pair[0]:.0f} %",
    "±%": lambda pair: f"{percent(pair)} %",
    "points": points,
    "2": lambda pair: f"{pair[0]:.2f}",
    "3": lambda pair: f"{pair[0]:.3f}",
    "1": lambda pair: f"{pair[0]:.1f}",
    "plain": str,
}


def placed(results: Figures) -> Callable[[re.Match[str]], str]:
    """What stands for a placeholder: `{table gates}`, or `{%: digits / accuracy / device}` for one figure."""

    def text(placeholder: re.Match[str]) -> str:
        kind, path = placeholder["kind"], placeholder["path"]
        if kind == "table":
            return committed(results) if path == "committed" else TABLES[path](results["sets"])
        found: Any = results
        steps = path.split(" / ")
        if steps[0] in results["sets"]:
            found, steps = results["sets"][steps[0]]["figures"], steps[1:]
        for step in steps:
            found = found[step]
        return FORMATS[kind.rstrip(":")](found)

    return text


def rendered(results: Figures) -> str:
    """The page."""
    return re.sub(r"\{(?P<kind>table|[^{}\s]+:) (?P<path>[^{}]+)\}", placed(results), TEMPLATE.read_text())


def main() -> int:
    """Writes, or checks."""
    text = rendered(json.loads(RESULTS.read_text()))
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() == text:
        return 0
    print(f"{PAGE} is not what {RESULTS} and {TEMPLATE} give: python3 {Path(__file__)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
