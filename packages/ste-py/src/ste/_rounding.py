"""The rounding ops: round_ste, ceil_ste, floor_ste, trunc_ste and stochastic_round_ste."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ste._arguments import check_beside, check_is_floating, checked
from ste._batching import batch_of_one_shape
from ste._function import StraightThrough, onnx_like

__all__ = ["ceil_ste_fn", "floor_ste_fn", "round_ste_fn", "stochastic_round_ste_fn", "trunc_ste_fn"]


class round_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.round_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.round(checked("round_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Round", x)


class ceil_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.ceil_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.ceil(checked("ceil_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Ceil", x)


class floor_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.floor_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.floor(checked("floor_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Floor", x)


class trunc_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.trunc_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.trunc(checked("trunc_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Mul", g.op("Floor", g.op("Abs", x)), g.op("Sign", x))


def _check_random(x: Tensor, random: Tensor) -> None:
    check_is_floating("stochastic_round_ste", "x", x)
    check_beside("stochastic_round_ste", "random", random, x)


def round_at_random(x: Tensor, random: Tensor) -> Tensor:
    """The integer below x, or the next one where the random number is less than the distance of x from it."""
    below = x.floor()
    return torch.where(x - below > random.to(x.dtype), below + 1, below)  # in x's memory format


def rounded(x: Tensor, random: Tensor | None) -> Tensor:
    """The nearest integer or, with random numbers, one of the two around x."""
    return x.round() if random is None else round_at_random(x, random)


def onnx_round_at_random(g: Any, x: Any, random: Any) -> Any:
    below = g.op("Floor", x)
    above = g.op("Add", below, onnx_like(g, below, 1.0))
    is_above = g.op("Less", g.op("CastLike", random, x), g.op("Sub", x, below))
    return g.op("Where", is_above, above, below)


class stochastic_round_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.stochastic_round_ste`."""

    @staticmethod
    def forward(x: Tensor, random: Tensor) -> Tensor:
        _check_random(x, random)
        return round_at_random(x.to(torch.promote_types(x.dtype, torch.float32)), random).to(x.dtype)

    @classmethod
    def batched(cls, batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
        return batch_of_one_shape(_check_random, batch_size, in_dims, args)

    @staticmethod
    def symbolic(g: Any, x: Any, random: Any) -> Any:
        dtype = 11 if x.type().scalarType() == "Double" else 1  # as ONNX numbers them
        return g.op("CastLike", onnx_round_at_random(g, g.op("Cast", x, to_i=dtype), random), x)
