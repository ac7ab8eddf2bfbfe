"""What the surrogate gradients are compared with: a product, torch's own derivatives, and what people write."""

import math
from collections.abc import Callable
from functools import partial

import torch
from bench_calls import Call
from torch import Tensor

import ste
from ste.surrogates import TABLE, Definition

# The functions whose derivatives the surrogates are, if they are one or two of torch's own.
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "clipped": lambda x: x.clamp(-1, 1),
    "tanh": torch.tanh,
    "sigmoid": lambda x: torch.sigmoid(4 * x),
    "atan": lambda x: torch.atan(math.pi * x),
    "gaussian": lambda x: torch.erf(2 * x),
    "swish": lambda x: torch.nn.functional.silu(5 * x),
}

# As larq, snntorch, spikingjelly and the papers' code write them, in eager PyTorch.
WRITTEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "clipped": lambda g, x: torch.where(x.abs() <= 1, g, torch.zeros_like(g)),
    "polynomial": lambda g, x: torch.where(x.abs() <= 1, 2 * (1 - x.abs()) * g, torch.zeros_like(g)),
    "swish": lambda g, x: g * 5 * (2 - 5 * x * torch.tanh(5 * x / 2)) / (1 + torch.cosh(5 * x)),
    "tanh": lambda g, x: g * (1 - torch.tanh(x) ** 2),
    "sigmoid": lambda g, x: g * 4 * torch.sigmoid(4 * x) * (1 - torch.sigmoid(4 * x)),
    "atan": lambda g, x: g / (1 + (math.pi * x) ** 2),
    "fast_sigmoid": lambda g, x: g / (25 * x.abs() + 1) ** 2,
    "triangle": lambda g, x: g * (1 - x.abs()).clamp(min=0),
    "gaussian": lambda g, x: g * 2 / math.sqrt(math.pi) * torch.exp(-((2 * x) ** 2)),
    "reste": lambda g, x: torch.where(x.abs() <= 1.5, g * x.abs().clamp(0.1) ** 0.0, torch.zeros_like(g)),
}


def backward_of(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Call:
    leaf = x.clone().requires_grad_()
    return Call(partial(torch.autograd.grad, retain_graph=True), (function(leaf), leaf, g))


def gradients(kind: Definition, ours: str, x: Tensor, g: Tensor) -> dict[str, Call]:
    """The backward alone, compared with a product of the two tensors that it reads."""

    def sign(x: Tensor) -> Tensor:
        return ste.binary_sign_ste(x, -1.0, kind.name)

    calls = {"torch.mul": Call(torch.mul, (g, x)), ours: backward_of(sign, x, g)}
    if kind.name in SMOOTH:
        calls["torch's own"] = backward_of(SMOOTH[kind.name], x, g)
    return {**calls, "as it is written": Call(WRITTEN[kind.name], (g, x))}


KINDS = {kind.name: kind for kind in TABLE}
