"""Measures what tiers buy on real data; writes docs/experiment/results.json, the plots, and docs/experiment.md.

`experiment.py --smoke` does it for one seed, writes nothing, and exits 1 where what must hold does not.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from committed import reference
from measure import measured, summarised
from page import PAGE, RESULTS, rendered
from plots import draw
from sets import KINDS, trials

SEEDS = 20
FOLDER = Path(__file__).resolve().parents[1]


def results(seeds: range) -> dict[str, Any]:
    """Every data set's figures over these seeds."""
    found: dict[str, list[Any]] = defaultdict(list)
    for seed in seeds:
        started = time.monotonic()
        for name, trial in trials(seed):
            found[name].append(measured(trial))
        print(f"seed {seed}: {time.monotonic() - started:.1f} s", flush=True)
    return {
        "seeds": len(seeds),
        "sets": {
            name: {
                "title": kind.title,
                "requests": kind.requests,
                "figures": summarised(found[name], kind.test_share),
            }
            for name, kind in KINDS.items()
        },
        "committed": reference(),
    }


def to_json(found: dict[str, Any]) -> str:
    """A line for each list of numbers, so that changes can be read."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}\"]*\]|\[(?:\s*\[[^\[\]]*\],?)*\s*\]", lambda numbers: re.sub(r"\s+", "", numbers[0]), text) + "\n"


def check(found: dict[str, Any]) -> None:
    """What must hold of real data whatever the seed, else something is broken."""
    for name, one in found["sets"].items():
        figures = one["figures"]
        device, cloud = (figures["accuracy"][tier][0] for tier in ("device", "cloud"))
        assert 0.2 < device < cloud < 1, f"{name}: device {device}, cloud {cloud}"
        for method, kinds in figures["methods"].items():
            for kind in kinds.values():
                assert kind["gates"]["1"]["share"][0] == 1, f"{name}: {method} keeps answers at a threshold of 1"
                assert np.isclose(kind["curve"][0][0], device, atol=1e-4), f"{name}: nothing is sent up at 0"
                assert np.isclose(kind["curve"][-1][0], cloud, atol=1e-4), f"{name}: everything is sent up at 1"
                assert 0.1 < kind["captured"][0] <= 1, f"{name}: {method} is no better than chance"
    assert all(gate["right"] > found["committed"]["right alone"]["device"] for gate in found["committed"]["gates"].values())
    assert found["sets"]["digits"]["figures"]["complexity"]["entropy"]["greatest"][0] < np.log2(17) / 8


def check_words(found: dict[str, Any]) -> None:
    """That page.md says in words what the figures say."""
    for name, one in found["sets"].items():
        figures = one["figures"]
        mean, half = figures["complexity"]["auc"]["Entropy"]
        assert mean - half < 0.5, f"{name}: entropy is better than chance"
        captured = [kind["captured"] for method in figures["methods"].values() for kind in method.values()]
        assert max(mean for mean, _ in captured) - min(mean for mean, _ in captured) < min(half for _, half in captured)
        for members in ("all", "no edge"):
            for combination, (mean, half) in figures["ensemble"][members]["over highest"].items():
                assert mean - half <= 0, f"{name}: {combination} is better than the cloud"
        assert abs(figures["ensemble"]["no cloud"]["over highest"]["WeightedMean"][0]) < 0.02
        assert figures["temperature"][0] < 1
        error = {kind: figures["trust"][kind]["error"][0] for kind in ("raw", "tempered")}
        better = error["tempered"] < error["raw"]
        assert better == (name in ("digits", "cancer")), f"{name}: what the temperature does to the calibration"


def main() -> None:
    """Measures; writes unless it is a smoke test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one seed, writes nothing")
    smoke = parser.parse_args().smoke
    found = results(range(1 if smoke else SEEDS))
    check(found)
    if smoke:
        return
    check_words(found)
    RESULTS.write_text(to_json(found))
    PAGE.write_text(rendered(found))
    drawn = draw(found, FOLDER)
    print(f"wrote {PAGE}, its results and {len(drawn)} plots")


if __name__ == "__main__":
    main()
