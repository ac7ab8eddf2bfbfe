"""Draws the plots of the front page and the README from docs/demo/digits.json, the results of examples/digits.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from pictures import THEMES, panel
from sphinx.application import Sphinx

Network = dict[str, Any]

FULL, FOUR, WITHOUT = "full precision", "4 bits, learned", "4 bits, torch.round"
# From Okabe and Ito's palette, which color-blind people can tell apart; full precision has the color of the text.
COLORS = {FOUR: "#0072B2", WITHOUT: "#D55E00"}
DARK = {FOUR: "#56B4E9", WITHOUT: "#E69F00"}


def draw_losses(axes: Axes, networks: list[Network], colors: dict[str, str]) -> None:
    """The losses of three networks; the others lie between them."""
    names = {FULL: "full precision", FOUR: "4 bits, with ste", WITHOUT: "4 bits, with torch.round"}
    for network in networks:
        if network["name"] in names:
            epochs = range(1, len(network["losses"]) + 1)
            dashes = {FULL: (0, (1, 1.5)), WITHOUT: (0, (4, 2))}.get(network["name"], "-")
            axes.plot(
                epochs,
                network["losses"],
                color=colors.get(network["name"], mpl.rcParams["text.color"]),
                linestyle=dashes,
                linewidth=2.2,
                label=names[network["name"]],
                zorder=3 if network["name"] == FULL else 2,
            )
    axes.set(title="training loss", xlabel="epoch", ylim=(0, 2.6), xticks=[1, 5, 10, 15, 20])
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.6))
    axes.grid(axis="y", alpha=0.3)


def draw_accuracies(axes: Axes, networks: list[Network], colors: dict[str, str]) -> None:
    """A bar for each network, from the most bits to the fewest, and last the one with torch.round."""
    names = [network["name"].replace(", both", " weights and inputs") for network in networks]
    accuracies = [network["accuracy"] for network in networks]
    bars = axes.barh(
        names, accuracies, color=[colors[WITHOUT] if n["name"] == WITHOUT else colors[FOUR] for n in networks]
    )
    axes.bar_label(bars, [f"{accuracy:.1%}" for accuracy in accuracies], padding=3)
    axes.invert_yaxis()
    axes.set(title="test accuracy", xlim=(0, 1.19), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


PANELS: dict[str, Callable[[Axes, list[Network], dict[str, str]], None]] = {
    "loss": draw_losses,
    "accuracy": draw_accuracies,
}


def draw_all(app: Sphinx) -> None:
    mpl.use("svg")
    networks = json.loads(Path(app.srcdir, "demo", "digits.json").read_text())["networks"]
    for name, draw in PANELS.items():
        for theme in THEMES:
            with panel(theme, f"digits-{name}", Path(app.srcdir, "static"), (4.2, 2.9)) as axes:
                draw(axes, networks, COLORS if theme == "light" else DARK)
                axes.spines[["top", "right"]].set_visible(False)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw_all)
    return {"parallel_read_safe": True}
