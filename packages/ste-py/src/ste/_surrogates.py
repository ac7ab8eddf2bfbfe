"""Surrogate gradients: the formulas of ``csrc/signs/surrogates.h``, in the same order."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ste._arguments import beside, check_is_floating, check_is_string, check_parameter, tensor_parameter

Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Definition:
    r"""One row of the table of surrogates.

    Attributes:
        name: The name that the signs take.
        alpha: The default: the value of the source.
        formula: :math:`h(x)`, in TeX.
        antiderivative: The function whose derivative is h, and which is 0 at 0, in TeX.
        source: Who proposed it, and which libraries have it.
        gradient: Computes :math:`g \, h(x)` from g, x and alpha.
        is_transcendental: Whether it is computed in float64 if x is float32. (An exponent's rounding error is
            multiplied by the exponent's size in the result: 80 ulp and more in float32.)
    """

    name: str
    alpha: float
    formula: str
    antiderivative: str
    source: str
    gradient: Gradient
    is_transcendental: bool = False


def _keep(mask: Tensor, value: Tensor) -> Tensor:
    return torch.where(mask, value, 0)


def _clipped(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    return _keep(x.abs() <= alpha, g)


def _polynomial(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    size = x.abs()
    return _keep(size <= alpha, g * ((2 / alpha) * (1 - size / alpha)))


def _swish(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    size = (x * alpha).abs()
    t = torch.where(size > 800, 800, size)  # exp(-800) is 0; an infinite t times 0 would be NaN
    e = (-t).exp()
    part = 1 / (1 + e)
    return g * ((alpha * 2) * e * (2 - t * (1 - e) * part) * (part * part))


def _tanh(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    e = (-(x * (alpha * 2)).abs()).exp()
    below = 1 + e
    return g * ((torch.where(alpha < 1, 1, alpha) * 4) * e / (below * below))


def _sigmoid(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    e = (-(x * alpha).abs()).exp()
    below = 1 + e
    return g * (alpha * e / (below * below))


def _atan(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    t = x * (alpha * (math.pi / 2))
    return g * ((alpha * 0.5) / (1 + t * t))


def _fast_sigmoid(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    root = 1 + x.abs() * alpha
    return g * (1 / (root * root))


def _triangle(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    height = alpha - x.abs() * (alpha * alpha)
    return g * torch.where(height < 0, 0, height)


def _gaussian(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    t = x * alpha
    return g * ((alpha * (1 / math.sqrt(math.pi))) * (-(t * t)).exp())


def _reste(g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    size = x.abs()
    within = torch.where(size < 0.1, 0.1, torch.where(size > 1.5, 1.5, size))
    height = (((1 - alpha) / alpha) * within.log()).exp()
    return _keep(size <= 1.5, g * torch.where(size <= 0.1, height, height / alpha))


TABLE = (
    Definition(
        name="clipped",
        alpha=1.0,
        formula=r"1 \text{ where } |x| \le \alpha, \text{ else } 0",
        antiderivative=r"\operatorname{clamp}(x, -\alpha, \alpha)",
        source="Hubara et al. 2016, Binarized Neural Networks (arXiv:1602.02830); larq's ste_sign",
        gradient=_clipped,
    ),
    Definition(
        name="polynomial",
        alpha=1.0,
        formula=r"2 (1 - |x| / \alpha) / \alpha \text{ where } |x| \le \alpha, \text{ else } 0",
        antiderivative=r"2 x / \alpha - x |x| / \alpha^2 \text{ where } |x| \le \alpha, \text{ else }"
        r"\operatorname{sign}(x)",
        source="Liu et al. 2018, Bi-Real Net (arXiv:1808.00278); larq's approx_sign",
        gradient=_polynomial,
    ),
    Definition(
        name="swish",
        alpha=5.0,
        formula=r"\alpha (2 - \alpha x \tanh(\alpha x / 2)) / (1 + \cosh(\alpha x))",
        antiderivative=r"2 \sigma(\alpha x) (1 + \alpha x (1 - \sigma(\alpha x))) - 1",
        source="Darabi et al. 2018, BNN+ (arXiv:1812.11800); larq's swish_sign",
        gradient=_swish,
        is_transcendental=True,
    ),
    Definition(
        name="tanh",
        alpha=1.0,
        formula=r"\max(1 / \alpha, 1) \, \alpha (1 - \tanh^2(\alpha x))",
        antiderivative=r"\max(1 / \alpha, 1) \tanh(\alpha x)",
        source="Qin et al. 2020, IR-Net (arXiv:1909.10788), which anneals alpha from 0.001 to 10",
        gradient=_tanh,
        is_transcendental=True,
    ),
    Definition(
        name="sigmoid",
        alpha=4.0,
        formula=r"\alpha s (1 - s), \quad s = 1 / (1 + e^{-\alpha x})",
        antiderivative=r"1 / (1 + e^{-\alpha x}) - 1/2",
        source="spikingjelly's Sigmoid",
        gradient=_sigmoid,
        is_transcendental=True,
    ),
    Definition(
        name="atan",
        alpha=2.0,
        formula=r"(\alpha / 2) / (1 + (\pi \alpha x / 2)^2)",
        antiderivative=r"\arctan(\pi \alpha x / 2) / \pi",
        source="Fang et al. 2021 (arXiv:2007.05785); snntorch's atan, spikingjelly's ATan",
        gradient=_atan,
    ),
    Definition(
        name="fast_sigmoid",
        alpha=25.0,
        formula=r"1 / (1 + \alpha |x|)^2",
        antiderivative=r"x / (1 + \alpha |x|)",
        source="Zenke and Ganguli 2018, SuperSpike (arXiv:1705.11146); snntorch's fast_sigmoid",
        gradient=_fast_sigmoid,
    ),
    Definition(
        name="triangle",
        alpha=1.0,
        formula=r"\max(0, \alpha - \alpha^2 |x|)",
        antiderivative=r"\alpha x - \alpha^2 x |x| / 2 \text{ where } |x| \le 1 / \alpha, \text{ else }"
        r"\operatorname{sign}(x) / 2",
        source="spikingjelly's PiecewiseQuadratic",
        gradient=_triangle,
    ),
    Definition(
        name="gaussian",
        alpha=2.0,
        formula=r"\alpha / \sqrt\pi \; e^{-(\alpha x)^2}",
        antiderivative=r"\operatorname{erf}(\alpha x) / 2",
        source="spikingjelly's Erf",
        gradient=_gaussian,
        is_transcendental=True,
    ),
    Definition(
        name="reste",
        alpha=1.0,
        formula=r"|x|^{1 / \alpha - 1} / \alpha \text{ from } 0.1 \text{ to } 1.5; \quad 0.1^{1 / \alpha - 1}"
        r"\text{ within } 0.1; \quad 0 \text{ outside}",
        antiderivative=r"\operatorname{sign}(x) |x|^{1 / \alpha} \text{ from } 0.1 \text{ to } 1.5,"
        r"\text{ linear within}",
        source="Wu et al. 2023, ReSTE (arXiv:2308.06689); within 0.1 as in its code",
        gradient=_reste,
        is_transcendental=True,
    ),
)
BY_NAME = {definition.name: definition for definition in TABLE}


def check_surrogate(op: str, x: Tensor, surrogate: Any, alpha: Any) -> None:
    check_is_string(op, "surrogate", surrogate)
    if surrogate == "identity":
        if alpha is not None:
            raise ValueError(f"{op}: the surrogate identity has no alpha")
        return
    if surrogate not in BY_NAME:
        raise ValueError(f"{op}: surrogate must be one of identity, {', '.join(BY_NAME)}, got {surrogate}")
    check_is_floating(op, "x", x)
    if alpha is not None:
        check_parameter(op, "alpha", tensor_parameter(op, "alpha", alpha, x), x)


def surrogate_gradient(surrogate: str, g: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    definition = BY_NAME[surrogate]
    wide = x.dtype == torch.float64 or (definition.is_transcendental and x.dtype == torch.float32)
    dtype = torch.float64 if wide else torch.float32
    return definition.gradient(g.to(dtype), x.to(dtype), alpha.to(dtype)).to(x.dtype)


def alpha_or_default(surrogate: str, alpha: Any, x: Tensor) -> Tensor:
    """The alpha as a tensor that gets no gradient."""
    value = BY_NAME[surrogate].alpha if alpha is None else alpha
    return beside(tensor_parameter("", "alpha", value, x).detach(), x)
