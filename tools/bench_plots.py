"""The plots of what tools/bench.py measured: two for the page, light and dark, and one beside it.

Those of the page are narrow, so that their text can still be read on a phone.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from bench_targets import NATIVE, Row, of_one_thread
from matplotlib.figure import Figure

THEMES = {"light": "default", "dark": "dark_background"}
# From Okabe and Ito's palette, which color-blind people can tell apart.
COLORS = {
    "light": ("#0072B2", "#D55E00", "#CC79A7", "#009E73"),
    "dark": ("#56B4E9", "#E69F00", "#CC79A7", "#2BC49A"),
}


def steps(rows: Sequence[Row], colors: Sequence[str]) -> Figure:
    """Bars: a training step of each network, on each number of threads."""
    chosen = [r for r in rows if r["section"] == "step"]
    groups = list(dict.fromkeys((r["op"], r["threads"]) for r in chosen))
    names = {NATIVE: "ste.nn", "torch.ao": "torch.ao", "torchao": "torchao", "Brevitas": "Brevitas"}
    present = [name for name in names if any(r["competitor"] == name for r in chosen)]
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    height = 0.8 / max(len(present), 1)
    for i, (name, color) in enumerate(zip(present, colors)):
        ratios = {(r["op"], r["threads"]): r["ratio"] for r in chosen if r["competitor"] == name}
        places = [j + i * height for j, group in enumerate(groups) if group in ratios]
        bars = axes.barh(
            places, [ratios[g] for g in groups if g in ratios], height * 0.9, color=color, label=names[name]
        )
        axes.bar_label(bars, fmt="%.2f", padding=3)
    middle = height * (len(present) - 1) / 2
    axes.set_yticks(
        [j + middle for j in range(len(groups))],
        [f"{network},\n{threads} thread{'s' * (threads > 1)}" for network, threads in groups],
    )
    axes.invert_yaxis()
    axes.axvline(1, color=mpl.rcParams["text.color"], linewidth=0.8)
    axes.set_xlabel("time / time of the step in float32")
    axes.legend(frameon=False, loc="lower right")
    return figure


def large(rows: Sequence[Row], colors: Sequence[str]) -> Figure:
    """Points: the largest tensor in float32, of each op, on one thread."""
    chosen = [r for r in of_one_thread(rows) if r["dtype"] == "float32" and r["layout"] == "contiguous"]
    size = max(r["elements"] for r in chosen if r["section"] == "forward")
    sections = {"forward": "", "fake_quantize": "fake_quantize, ", "fake_quantize_float": "fake_quantize_float, "}
    sections["fake_quantize_blocks"] = "fake_quantize_blocks, "
    points: dict[str, dict[str, float]] = {}
    for row in chosen:
        if row["section"] in sections and row["elements"] == size:
            points.setdefault(sections[row["section"]] + row["op"], {})[row["competitor"]] = row["ratio"]
    names = [name for name in points if NATIVE in points[name]]
    figure, axes = plt.subplots(figsize=(5.2, 0.24 * len(names) + 1), layout="constrained")
    drawn = {
        "detach idiom": ("idiom", "composition"),
        "Function": ("Function",),
        "idiom, compiled": ("torch.compile",),
        "ste": (NATIVE,),
    }
    order = (colors[1], colors[2], colors[3], colors[0])
    for (label, competitors), color, marker in zip(drawn.items(), order, "svdo"):
        values = [next((points[name][c] for c in competitors if c in points[name]), math.nan) for name in names]
        axes.plot(values, range(len(names)), marker, color=color, label=label)
    axes.axvline(1, color=mpl.rcParams["text.color"], linewidth=0.8)
    axes.set(xscale="log", xlabel="time / time of torch.round or x.clone()")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50) if tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", alpha=0.3)
    axes.invert_yaxis()
    figure.legend(frameon=False, loc="outside upper right", ncols=4, columnspacing=1, handletextpad=0.2)
    return figure


def growth(rows: Sequence[Row]) -> Figure:
    chosen = [r for r in rows if r["section"] == "growth"]
    ops = list(dict.fromkeys(r["op"] for r in chosen))
    figure, axes = plt.subplots(
        1, len(ops), figsize=(4.5 * len(ops), 4.5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, op in zip(axes[0], ops):
        for threads, style in zip(sorted({r["threads"] for r in chosen}), ("-", "--")):
            for competitor in ("torch.round", NATIVE, "idiom"):
                line = [r for r in chosen if (r["op"], r["threads"], r["competitor"]) == (op, threads, competitor)]
                points = sorted((r["elements"], r["seconds"]) for r in line)
                axis.plot(*zip(*points), style, label=f"{competitor}, {threads} thread{'s' * (threads > 1)}")
        axis.set(xscale="log", yscale="log", title=op, xlabel="elements")
    axes[0, 0].set_ylabel("seconds")
    axes[0, 0].legend()
    return figure


PLOTS: dict[str, Callable[[Sequence[Row], Sequence[str]], Figure]] = {"steps": steps, "large": large}


def draw_all(rows: Sequence[Row], folder: Path) -> None:
    for name, draw in PLOTS.items():
        for theme, base in THEMES.items():
            style = {"savefig.transparent": True, "font.size": 9, "svg.hashsalt": name}
            style |= {"axes.spines.top": False, "axes.spines.right": False}
            with plt.style.context([base, style]):
                figure = draw(rows, COLORS[theme])
                figure.savefig(folder / f"{name}-{theme}.svg", metadata={"Date": None})
                plt.close(figure)
    figure = growth(rows)
    figure.savefig(folder / "growth.png", dpi=110)
    plt.close(figure)
