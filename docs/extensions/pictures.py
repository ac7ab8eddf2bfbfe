"""Draws each op of the table and its gradients, by calling the op, and puts the picture into its documentation."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from op_table import DISTINCT_OPS, Op
from sphinx.application import Sphinx
from torch import Tensor

FOLDER = "generated"
THEMES = {"light": "default", "dark": "dark_background"}


def nearest(x: Tensor) -> Tensor:
    """The nearest of three numbers, as in vector quantization."""
    codes = x.new_tensor([-3.0, -0.5, 2.0])
    return codes[(x[:, None] - codes).abs().argmin(-1)]


DRAWN = [replace(op, arguments=(nearest,)) if op.name == "straight_through" else op for op in DISTINCT_OPS]


def sample(op: Op) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, y, and the derivatives of y by x and by each of the op's parameters that has one."""
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64, requires_grad=True)
    arguments = [a.requires_grad_() if isinstance(a, Tensor) else a for a in op.arguments_for(x.detach())]
    y = op.function(x, *arguments)
    names = list(inspect.signature(op.function).parameters)
    inputs = {name: a for name, a in zip(names, [x, *arguments]) if isinstance(a, Tensor)}
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(y.sum(), list(inputs.values()), allow_unused=True)
    return x.detach(), y.detach(), {n: g for n, g in zip(inputs, gradients) if g is not None}


def call(op: Op, x: Tensor) -> str:
    """As it is called; an argument of x's size, which is one number everywhere, as that number."""
    arguments = (
        ["nearest(x)"]
        if nearest in op.arguments
        else [f"{a.flatten()[0]:g}" if isinstance(a, Tensor) else str(a) for a in op.arguments_for(x)]
    )
    return f"{op.name}({', '.join(op.in_order('x', *arguments))})"


def with_gaps(y: Tensor) -> Tensor:
    """Not a number where a step is, so that no line joins its two sides."""
    is_step = torch.cat([y.diff().abs() > 0.1, torch.tensor([False])])
    return torch.where(is_step, torch.nan, y)


def draw(op: Op, theme: str, path: Path) -> None:
    x, y, gradients = sample(op)
    panels = ["forward", "error", "gradients"] if op.name == "fake_quantize" else ["forward", "gradients"]
    style = {"savefig.transparent": True, "font.size": 9, "svg.hashsalt": op.name}
    with plt.style.context([THEMES[theme], style]):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.3), sharex=True, layout="constrained")
        for panel, axis in zip(panels, axes):
            draw_panel(panel, axis, x, y, gradients)
        axes[0].set_title(call(op, x))
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_panel(panel: str, axis: Axes, x: Tensor, y: Tensor, gradients: dict[str, Tensor]) -> None:
    axis.set_xlabel("x")
    axis.grid(alpha=0.3)
    if panel == "forward":
        axis.plot(x, x, lw=0.8, ls=":", color="gray")
        axis.plot(x, with_gaps(y))
    elif panel == "error":
        axis.set_title("error")
        axis.plot(x, with_gaps(y - x), color="C3")
    else:
        for i, (name, gradient) in enumerate(gradients.items(), 1):
            axis.plot(x, with_gaps(gradient), color=f"C{i}", label=name)
        if len(gradients) == 1:
            axis.set_title("gradient")
            axis.set_ylim(-0.2, 1.4)
        else:
            axis.set_title("gradients")
            axis.legend(fontsize="small")


def draw_all(app: Sphinx) -> None:
    mpl.use("svg")
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    for op in DRAWN:
        for theme in THEMES:
            draw(op, theme, folder / f"{op.name}-{theme}.svg")


def picture(op: Op) -> list[str]:
    lines = [""]
    for theme in THEMES:
        lines.append(f".. image:: /{FOLDER}/{op.name}-{theme}.svg")
        lines.append(f"   :alt: {op.name} and its gradient, drawn for x from -5 to 5")
        lines += [f"   :class: only-{theme}", ""]
    return lines


def add_picture(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before the first of the sections."""
    for op in DISTINCT_OPS:
        if op.public is obj:
            sections = (i for i, line in enumerate(lines) if line.startswith((":param", ":returns")))
            where = next(sections, len(lines))
            lines[where:where] = picture(op)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", add_picture, priority=900)  # after napoleon
    return {"parallel_read_safe": True}
