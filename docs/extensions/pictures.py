"""Draws the ops of the table and their gradients by calling them, and adds the pictures to their documentation.

The roundings, signs and clamps whose gradient is 1 everywhere share one picture.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from op_table import DISTINCT_OPS, Op, full
from sphinx.application import Sphinx
from torch import Tensor

import ste

FOLDER = "generated"
THEMES = {"light": "default", "dark": "dark_background"}


def nearest(x: Tensor) -> Tensor:
    """The nearest of three numbers, as in vector quantization."""
    codes = x.new_tensor([-3.0, -0.5, 2.0])
    return codes[(x[:, None] - codes).abs().argmin(-1)]


# Not drawn with the others with this gradient: the first looks like scalar_clamp_ste, and the second is any step.
APART = ("tensor_clamp_ste", "straight_through")
TOGETHER = [op for op in DISTINCT_OPS if op.straight_through and op.name not in APART]
# Ops that are clearer with arguments other than those in the table.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "straight_through": (nearest,),
    "fake_quantize": (full(1.0), full(0.0), -4, 3),
}
DRAWN = [replace(op, arguments=ARGUMENTS.get(op.name, op.arguments)) for op in DISTINCT_OPS if op not in TOGETHER]


def sample(op: Op) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, y, and the derivatives of y with respect to x and to each parameter of the op that has one."""
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64, requires_grad=True)
    arguments = [a.requires_grad_() if isinstance(a, Tensor) else a for a in op.arguments_for(x.detach())]
    y = op.function(x, *arguments)
    names = list(inspect.signature(op.function).parameters)
    inputs = {name: a for name, a in zip(names, [x, *arguments]) if isinstance(a, Tensor)}
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(y.sum(), list(inputs.values()), allow_unused=True)
    return x.detach(), y.detach(), {n: g for n, g in zip(inputs, gradients) if g is not None}


def call(op: Op, x: Tensor) -> str:
    """The call as text; an argument of x's size with the same number everywhere is shown as that number."""
    arguments = (
        ["nearest(x)"]
        if nearest in op.arguments
        else [f"{a.flatten()[0]:g}" if isinstance(a, Tensor) else str(a) for a in op.arguments_for(x)]
    )
    return f"{op.name}({', '.join(op.in_order('x', *arguments))})"


def with_gaps(y: Tensor) -> Tensor:
    """NaN at each step, so that no line joins its two sides."""
    is_step = torch.cat([y.diff().abs() > 0.1, torch.tensor([False])])
    return torch.where(is_step, torch.nan, y)


@contextlib.contextmanager
def panel(theme: str, name: str, folder: Path, size: tuple[float, float] = (3.2, 2.3)) -> Iterator[Axes]:
    """The axes of one panel of a picture, which is saved on exit.

    Each panel has its own file, so that a narrow page can show them one below the other.
    """
    style = {"savefig.transparent": True, "font.size": 9, "svg.hashsalt": name}
    with plt.style.context([THEMES[theme], style]):
        drawn, axes = plt.subplots(figsize=size, layout="constrained")
        yield axes
        drawn.savefig(folder / f"{name}-{theme}.svg", metadata={"Date": None})
        plt.close(drawn)


def panels_of(op: Op) -> list[str]:
    return ["forward", "error", "gradients"] if op.name == "fake_quantize" else ["forward", "gradients"]


def draw(op: Op, theme: str, folder: Path) -> None:
    x, y, gradients = sample(op)
    for kind in panels_of(op):
        with panel(theme, f"{op.name}-{kind}", folder) as axis:
            shade(axis, x, next(iter(gradients.values())), named=kind == "forward")
            draw_panel(kind, axis, x, y, gradients)
            if kind == "forward":
                axis.set_title(call(op, x))


def shade(axis: Axes, x: Tensor, mask: Tensor, named: bool) -> None:
    """Shade the range where the gradient passes to x, if it is a single range and not everything."""
    passes = mask.nonzero()[:, 0]
    first, last = int(passes[0]), int(passes[-1])
    if len(passes) == len(x) or len(passes) != last - first + 1:
        return
    axis.axvspan(x[first].item(), x[last].item(), color="green", alpha=0.2, lw=0)
    if named:
        middle = (x[first] + x[last]).item() / 2
        place: dict[str, Any] = {
            "transform": axis.get_xaxis_transform(),
            "ha": "center",
            "va": "top",
            "fontsize": "small",
        }
        axis.text(middle, 0.97, "the gradient passes to x", **place)


def draw_together(theme: str, folder: Path) -> None:
    for op in TOGETHER:
        x, y, _ = sample(op)
        with panel(theme, op.name, folder, size=(1.75, 1.75)) as axis:
            draw_panel("forward", axis, x, y, {})
            axis.set(xlabel="", xticks=[-4, 0, 4], yticks=[-4, 0, 4], ylim=(-5.5, 5.5))
            axis.set_title(call(op, x).removesuffix("(x)").replace("(", "\n(", 1), fontsize="medium")


def draw_panel(kind: str, axis: Axes, x: Tensor, y: Tensor, gradients: dict[str, Tensor]) -> None:
    axis.set_xlabel("x")
    axis.grid(alpha=0.3)
    if kind == "forward":
        axis.plot(x, x, lw=0.8, ls=":", color="gray")
        axis.plot(x, with_gaps(y))
    elif kind == "error":
        axis.set_title("error")
        axis.plot(x, with_gaps(y - x), color="C3")
    else:
        for i, (name, gradient) in enumerate(gradients.items(), 1):
            axis.plot(x, with_gaps(gradient), color=f"C{i}", label=f"to {name}")
        axis.set_title("gradients" if len(gradients) > 1 else "gradient")
        axis.legend(fontsize="small")
        if len(gradients) == 1:
            axis.set_ylim(-0.2, 1.4)


def draw_all(app: Sphinx) -> None:
    mpl.use("svg")
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    for theme in THEMES:
        draw_together(theme, folder)
        for op in DRAWN:
            draw(op, theme, folder)


def picture(panels: dict[str, str], classes: str = "") -> list[str]:
    """A picture in the markup of docstrings: its panels, by the name of the file, and what each shows."""
    lines = ["", f".. container:: panels {classes}".rstrip(), ""]
    for name, text in panels.items():
        for theme in THEMES:
            lines += [f"   .. image:: /{FOLDER}/{name}-{theme}.svg", f"      :alt: {text}"]
            lines += [f"      :class: only-{theme}", ""]
    return lines


def insert(lines: list[str], what: list[str]) -> None:
    """Insert lines before the first section of a docstring."""
    sections = (i for i, line in enumerate(lines) if line.startswith((":param", ":returns", ".. rubric::")))
    where = next(sections, len(lines))
    lines[where:where] = what


def add_picture(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for op in DRAWN:
        if op.public is obj:
            panels = {f"{op.name}-{kind}": f"{op.name}, {kind}, for x from -5 to 5" for kind in panels_of(op)}
            insert(lines, picture(panels))
    if obj is ste.ops_ste:
        lines += picture({op.name: f"{op.name}, for x from -5 to 5" for op in TOGETHER}, "small")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", add_picture, priority=900)  # after napoleon
    return {"parallel_read_safe": True}
