"""A Python package that depends only on ste-py: layers with ternary weights."""

import torch
from torch import Tensor

import ste

__all__ = ["TernaryLinear", "clipped"]


def clipped(x: Tensor, bits: int) -> Tensor:
    """X as a signed integer of `bits` bits."""
    return ste.scalar_clamp_ste(ste.round_ste(x), int(ste.min_int(True, False, bits)), int(ste.max_int(True, bits)))


class TernaryLinear(torch.nn.Linear):
    """A linear layer with weights -1, 0 and 1, times a number for each output."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as Linear has it)
        size = self.weight.detach().abs().mean(1, keepdim=True)
        grid: Tensor = ste.ternary_sign_ste(self.weight / size - ste.binary_sign_ste(self.weight, low=-1.0) / 2)
        return torch.nn.functional.linear(input, grid * size, self.bias)
