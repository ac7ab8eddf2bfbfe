"""Writes the table of the surrogates and draws each of them by calling the op.

Both are generated from `ste.surrogates.TABLE`, so a new surrogate appears by itself. h is the gradient from autograd,
and the smooth function is its integral.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from pictures import FOLDER, THEMES, insert, panel, picture, with_gaps
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


def draw(kind: Definition, theme: str, folder: Path) -> None:
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    alphas = ALPHAS.get(kind.name, [factor * kind.alpha for factor in FACTORS])
    for name, title in ((kind.name, kind.name), (f"{kind.name}-slope", "h, its derivative")):
        with panel(theme, f"surrogate-{name}", folder) as axis:
            for alpha in alphas:
                h = slope(kind, x, alpha)
                line: dict[str, Any] = {"lw": 1.8, "zorder": 3} if alpha == kind.alpha else {"lw": 0.9}
                y = integral(h, x) if name == kind.name else with_gaps(h)
                axis.plot(x, y, label=f"alpha {alpha:g}", **line)
            axis.set(title=title, xlabel="x")
            axis.grid(alpha=0.3)
            if name == kind.name:
                axis.legend(fontsize="small")


def draw_all(app: Sphinx) -> None:
    mpl.use("svg")
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    for kind in TABLE:
        for theme in THEMES:
            draw(kind, theme, folder)


def linked(source: str) -> str:
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def in_text(formula: str) -> str:
    """The formula for Markdown, with its words outside the math, so that a narrow page can break the line."""
    parts = re.split(r"\\quad|\\text\{([^}]*)\}", formula)
    text = ""
    for math, word in zip(parts[::2], [*parts[1::2], ""]):
        inner = math.strip(" ,;")
        text += (f"${inner}$" if inner else "") + math.strip().removeprefix(inner) + (word or " ")
    return " ".join(text.split())


def panels_of(kind: Definition) -> dict[str, str]:
    return {
        f"surrogate-{kind.name}": f"the smooth function of {kind.name}, for three values of alpha",
        f"surrogate-{kind.name}-slope": f"the gradient h of {kind.name}, for three values of alpha",
    }


class SurrogateTable(SphinxDirective):
    """A directive for Markdown pages: a table with a row for each surrogate."""

    def run(self) -> list[Any]:
        lines = ["| surrogate | $h(x)$ | default $\\alpha$ | source |", "|---|---|---|---|"]
        for kind in TABLE:
            formula = in_text(kind.formula).replace("|", r"\|")
            name = f"{{func}}`{kind.name} <ste.surrogates.{kind.name}>`"
            lines.append(f"| {name} | {formula} | {kind.alpha:g} | {linked(kind.source)} |")
        nodes: list[Any] = self.parse_text_to_nodes("\n".join(lines))
        return nodes


def add_picture(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add a picture to each surrogate's function, as pictures does for the ops."""
    for kind in TABLE:
        if obj is getattr(ste.surrogates, kind.name):
            insert(lines, picture(panels_of(kind)))


class SurrogatePictures(SphinxDirective):
    """A directive for Markdown pages: for each surrogate, the function whose derivative is h, and a picture of both."""

    def run(self) -> list[Any]:
        lines = []
        for kind in TABLE:
            lines += [f"**{kind.name}** is the derivative of {in_text(kind.antiderivative)}.", ""]
            lines += ["```{eval-rst}", *picture(panels_of(kind)), "```", ""]
        nodes: list[Any] = self.parse_text_to_nodes("\n".join(lines))
        return nodes


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", add_picture, priority=900)  # after napoleon
    app.add_directive("surrogate-table", SurrogateTable)
    app.add_directive("surrogate-pictures", SurrogatePictures)
    return {"parallel_read_safe": True}
