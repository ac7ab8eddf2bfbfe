"""Writes the table of the surrogates and draws each of them by calling the op.

Both are generated from `ste.surrogates.TABLE`, so a new surrogate appears by itself. h is the gradient from autograd,
and the smooth function is its integral.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from pictures import FOLDER, THEMES, insert, picture, with_gaps
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import Tensor

import ste
from ste.surrogates import TABLE, Definition

# The values of alpha to draw: these times the default, or those through which the source anneals alpha.
FACTORS = (0.5, 1.0, 2.0)
ALPHAS = {"reste": (1.0, 2.0, 3.0)}


def slope(kind: Definition, x: Tensor, alpha: float | None = None) -> Tensor:
    """The factor that multiplies the gradient at x."""
    x = x.detach().requires_grad_()
    (h,) = torch.autograd.grad(ste.binary_sign_ste(x, surrogate=kind.name, alpha=alpha).sum(), x)
    return h


def integral(h: Tensor, x: Tensor) -> Tensor:
    """The integral from the middle of x, by the trapezoidal rule."""
    area = torch.cat([h.new_zeros(1), torch.cumulative_trapezoid(h, x)])
    return area - area[len(x) // 2]


def draw(kind: Definition, theme: str, path: Path) -> None:
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    theme_style = {"savefig.transparent": True, "font.size": 9, "svg.hashsalt": kind.name}
    with plt.style.context([THEMES[theme], theme_style]):
        figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.3), sharex=True, layout="constrained")
        for alpha in ALPHAS.get(kind.name, [factor * kind.alpha for factor in FACTORS]):
            h = slope(kind, x, alpha)
            line = {"lw": 1.8, "zorder": 3} if alpha == kind.alpha else {"lw": 0.9}
            for axis, y in zip(axes, (integral(h, x), with_gaps(h))):
                axis.plot(x, y, label=f"alpha {alpha:g}", **line)
        for axis, title in zip(axes, (kind.name, "h, its derivative")):
            axis.set_title(title)
            axis.set_xlabel("x")
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize="small")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_all(app: Sphinx) -> None:
    mpl.use("svg")
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    for kind in TABLE:
        for theme in THEMES:
            draw(kind, theme, folder / f"surrogate-{kind.name}-{theme}.svg")


def linked(source: str) -> str:
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def in_cell(formula: str) -> str:
    """The formula for a Markdown table, in which | would end a cell. Its parts may go on separate lines."""
    return " ".join(f"${part.strip()}$" for part in formula.replace("|", r"\|").split(r"\quad"))


def alternative(kind: Definition) -> str:
    return f"the smooth function of {kind.name}, and h, for three values of alpha"


class SurrogateTable(SphinxDirective):
    """A directive for Markdown pages: a table with a row for each surrogate."""

    def run(self) -> list[Any]:
        lines = ["| surrogate | $h(x)$ | default $\\alpha$ | source |", "|---|---|---|---|"]
        for kind in TABLE:
            formula = in_cell(kind.formula)
            name = f"{{func}}`{kind.name} <ste.surrogates.{kind.name}>`"
            lines.append(f"| {name} | {formula} | {kind.alpha:g} | {linked(kind.source)} |")
        nodes: list[Any] = self.parse_text_to_nodes("\n".join(lines))
        return nodes


def add_picture(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add a picture to each surrogate's function, as pictures does for the ops."""
    for kind in TABLE:
        if obj is getattr(ste.surrogates, kind.name):
            insert(lines, picture(f"surrogate-{kind.name}", alternative(kind)))


class SurrogatePictures(SphinxDirective):
    """A directive for Markdown pages: for each surrogate, the function whose derivative is h, and a picture of both."""

    def run(self) -> list[Any]:
        lines = []
        for kind in TABLE:
            lines += [f"**{kind.name}** is the derivative of ${kind.antiderivative}$.", ""]
            for theme in THEMES:
                lines += [f"```{{image}} /{FOLDER}/surrogate-{kind.name}-{theme}.svg"]
                lines += [f":alt: {alternative(kind)}"]
                lines += [f":class: only-{theme}", "```", ""]
        nodes: list[Any] = self.parse_text_to_nodes("\n".join(lines))
        return nodes


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", add_picture, priority=900)  # after napoleon
    app.add_directive("surrogate-table", SurrogateTable)
    app.add_directive("surrogate-pictures", SurrogatePictures)
    return {"parallel_read_safe": True}
