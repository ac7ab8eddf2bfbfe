"""Draws the ops of the table and their gradients by calling them, and adds the pictures to their documentation.

The roundings, signs and clamps whose gradient is 1 everywhere share one picture.
"""

import contextlib
import inspect
import itertools
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
TOGETHER_PICTURE = "straight_through_ops"
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
def figure(
    theme: str, name: str, folder: Path, rows: int, columns: int, size: tuple[float, float]
) -> Iterator[list[Axes]]:
    """The axes of a picture, which is saved on exit."""
    style = {"savefig.transparent": True, "font.size": 9, "svg.hashsalt": name}
    with plt.style.context([THEMES[theme], style]):
        drawn, axes = plt.subplots(
            rows, columns, figsize=size, sharex=True, sharey=rows > 1, squeeze=False, layout="constrained"
        )
        yield list(axes.flat)
        drawn.savefig(folder / f"{name}-{theme}.svg", metadata={"Date": None})
        plt.close(drawn)


def draw(op: Op, theme: str, folder: Path) -> None:
    x, y, gradients = sample(op)
    panels = ["forward", "error", "gradients"] if op.name == "fake_quantize" else ["forward", "gradients"]
    with figure(theme, op.name, folder, 1, len(panels), (3.2 * len(panels), 2.3)) as axes:
        for panel, axis in zip(panels, axes):
            shade(axis, x, next(iter(gradients.values())), named=panel == "forward")
            draw_panel(panel, axis, x, y, gradients)
        axes[0].set_title(call(op, x))


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
    with figure(theme, TOGETHER_PICTURE, folder, 2, (len(TOGETHER) + 1) // 2, (7.5, 3.6)) as axes:
        for op, axis in itertools.zip_longest(TOGETHER, axes):
            if op is None:
                axis.set_axis_off()
                continue
            x, y, _ = sample(op)
            draw_panel("forward", axis, x, y, {})
            axis.set(xlabel="", xticks=[-4, 0, 4], yticks=[-4, 0, 4])
            axis.set_title(call(op, x).removesuffix("(x)").replace("(", "\n(", 1), fontsize="medium")


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


def picture(name: str, text: str) -> list[str]:
    """A picture in the markup of docstrings."""
    lines = [""]
    for theme in THEMES:
        lines.append(f".. image:: /{FOLDER}/{name}-{theme}.svg")
        lines.append(f"   :alt: {text}")
        lines += [f"   :class: only-{theme}", ""]
    return lines


def insert(lines: list[str], what: list[str]) -> None:
    """Insert lines before the first section of a docstring."""
    sections = (i for i, line in enumerate(lines) if line.startswith((":param", ":returns", ".. rubric::")))
    where = next(sections, len(lines))
    lines[where:where] = what


def add_picture(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for op in DRAWN:
        if op.public is obj:
            insert(lines, picture(op.name, f"{op.name} and its gradients, drawn for x from -5 to 5"))
    if obj is ste.ops_ste:
        names = ", ".join(op.name for op in TOGETHER)
        lines += picture(TOGETHER_PICTURE, f"{names}, drawn for x from -5 to 5")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", add_picture, priority=900)  # after napoleon
    return {"parallel_read_safe": True}
