"""The plots: accuracy by the share sent up, one a data set, and how far confidence can be believed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402
from PIL import Image  # noqa: E402

from measure import PLAIN  # noqa: E402
from routing import GRID  # noqa: E402

# Okabe and Ito's colours, which people with the common kinds of colour blindness tell apart.
COLOURS = {"Probability": "#0072B2", "Margin": "#D55E00", "Entropy": "#009E73"}
INK, GREY = "#222222", "#767676"
# A share this small is not marked: that is the device alone.
NOTHING = 0.005
MARKED = ("0.5", "0.8", "0.9", "0.99")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": GREY,
    "ytick.color": GREY,
    # The same bytes from the same numbers.
    "svg.hashsalt": "terrace",
}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draws everything as SVG and PNG; returns the files."""
    with plt.rc_context(STYLE):
        figures = {f"accuracy-{name}": accuracy_plot(one, results["seeds"]) for name, one in results["sets"].items()}
        figures["reliability"] = reliability_plot(results)
        return [path for name, figure in figures.items() for path in saved(figure, folder / name)]


def saved(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure twice."""
    paths = [path.with_suffix(".svg"), path.with_suffix(".png")]
    figure.savefig(paths[0], metadata={"Date": None, "Creator": None})
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=160, format="png")
    # As many colours as there are, and a third of the bytes.
    Image.open(pixels).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(paths[1], optimize=True)
    plt.close(figure)
    return paths


def accuracy_plot(one: dict[str, Any], seeds: int) -> Figure:
    """Accuracy by share for each method, the oracle and random sending."""
    figures = one["figures"]
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    oracle, chance = (np.array(figures["curves"][name]) for name in ("oracle", "random"))
    axes.plot(GRID, oracle[:, 0], color=INK, lw=1.2, ls=(0, (4, 2)))
    axes.plot(GRID, chance[:, 0], color=GREY, lw=1.2)
    methods = {method: figures["methods"][method]["raw"] for method in COLOURS}
    for method, colour in COLOURS.items():
        mean = np.array(methods[method]["curve"])[:, 0]
        if method == "Probability":
            half = np.array(methods[method]["gain"])[:, 1]
            axes.fill_between(GRID, mean - half, mean + half, color=colour, alpha=0.15, lw=0)
        elif methods[method]["curve"] == methods["Probability"]["curve"]:
            continue
        axes.plot(GRID, mean, color=colour, lw=1.8)
    mark_gates(axes, figures)
    name_curves(axes, figures, oracle[:, 0], chance[:, 0])
    axes.set_title(one["title"], pad=22)
    axes.text(
        0,
        1.03,
        f"n = {one['requests']} test requests × {seeds} seeds; band: 95 % interval of the gain over random",
        transform=axes.transAxes,
        color=GREY,
        fontsize=8.5,
    )
    axes.set_xlabel("requests sent up to the cloud")
    axes.set_ylabel("right answers")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    return figure


def mark_gates(axes: Axes, figures: dict[str, Any]) -> None:
    """Where some thresholds on the raw probability, and on the tempered one, come to lie."""
    colour = COLOURS["Probability"]
    for name, face in (("tempered", "white"), ("raw", colour)):
        gates = figures["methods"]["Probability"][name]["gates"]
        for threshold in MARKED:
            share, accuracy = gates[threshold]["share"][0], gates[threshold]["accuracy"][0]
            if share < NOTHING:
                continue
            axes.plot(share, accuracy, "o", ms=6, mfc=face, mec=colour, mew=1.3, zorder=5, clip_on=False)
            if name == "raw":
                axes.annotate(
                    threshold, (share, accuracy), (4, -12), textcoords="offset points", color=colour, fontsize=8.5
                )


def name_curves(axes: Axes, figures: dict[str, Any], oracle: np.ndarray, chance: np.ndarray) -> None:
    """Names beside the curves instead of a legend."""
    device, cloud = (figures["accuracy"][tier][0] for tier in ("device", "cloud"))
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))

    def beside(text: str, at: tuple[float, float], by: tuple[float, float], **more: Any) -> None:
        axes.annotate(text, at, by, textcoords="offset points", **{"color": INK, "fontsize": 9, **more})

    beside("oracle", (0.3, float(np.interp(0.3, GRID, oracle))), (0, 4))
    beside("at random", (0.55, float(np.interp(0.55, GRID, chance))), (8, -4), color=GREY, va="top")
    beside(f"device alone {device:.1%}", (0, device), (9, -11))
    beside(f"cloud\nalone\n{cloud:.1%}", (1, cloud), (5, 0), va="center", annotation_clip=False)
    methods = figures["methods"]
    alike = [name for name in COLOURS if methods[name]["raw"]["curve"] == methods["Probability"]["raw"]["curve"]]
    lines = [("least sure first, by", INK, "normal"), (", ".join(alike), COLOURS["Probability"], "bold")]
    lines += [(name, colour, "bold") for name, colour in COLOURS.items() if name not in alike]
    lines.append(("● threshold on Probability   ○ with temperature", COLOURS["Probability"], "normal"))
    for row, (text, colour, weight) in enumerate(reversed(lines)):
        axes.text(
            0.985, 0.03 + 0.058 * row, text, transform=axes.transAxes, color=colour, ha="right", weight=weight, fontsize=9
        )


def reliability_plot(results: dict[str, Any]) -> Figure:
    """How often the device is right, by how sure it says that it is."""
    sets = results["sets"]
    figure, row = plt.subplots(1, len(sets), figsize=(12, 3.3), sharex=True, sharey=True, layout="constrained")
    styles = {"raw": (COLOURS["Probability"], "o", "raw"), "tempered": (COLOURS["Margin"], "D", "with temperature")}
    for axes, one in zip(row, sets.values()):
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls=(0, (4, 2)))
        for name, (colour, marker, _) in styles.items():
            bins = one["figures"]["trust"][name]["bins"]
            share, sums, rights = (np.array(bins[key])[:, 0] for key in ("share", "confidence", "right"))
            there = share > 0.002
            axes.plot(sums[there] / share[there], rights[there] / share[there], color=colour, lw=1, alpha=0.6)
            axes.scatter(
                sums[there] / share[there],
                rights[there] / share[there],
                s=14 + 130 * share[there],
                facecolor=colour if name == "raw" else "white",
                edgecolor=colour,
                marker=marker,
                alpha=0.85,
                zorder=3,
                clip_on=False,
            )
        axes.axvline(PLAIN, color="#cccccc", lw=0.9, zorder=0)
        axes.set_title(one["title"], fontsize=10)
        axes.set_xlim(0.1, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([0.25, 0.5, 0.75, 1])
        axes.set_aspect("equal")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    row[0].annotate("0.9", (PLAIN, 0), (-3, 3), textcoords="offset points", color=GREY, fontsize=8, ha="right")
    row[0].annotate("as sure as right", (0.3, 0.3), (5, -9), textcoords="offset points", color=GREY, fontsize=8)
    for height, (name, (colour, symbol, text)) in zip((0.18, 0.08), styles.items()):
        row[-1].text(0.97, height, f"{'●' if name == 'raw' else '◇'} {text}", transform=row[-1].transAxes, color=colour, ha="right", fontsize=9)
    row[0].set_ylabel("answers that are right")
    row[len(row) // 2].set_xlabel("confidence of the device's answer (Probability)")
    return figure
