"""The rounding ops: round_ste, ceil_ste, floor_ste and trunc_ste."""

from typing import Any

import torch
from torch import Tensor

from ste._arguments import checked
from ste._function import StraightThrough

__all__ = ["ceil_ste_fn", "floor_ste_fn", "round_ste_fn", "trunc_ste_fn"]


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
