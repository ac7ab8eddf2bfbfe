"""The quantizers for the tests of ste.nn: one of each kind, for the weight and for the input of a layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

import ste


class Pair(NamedTuple):
    """The quantizer of weights, and that of inputs."""

    weight: Callable[[], nn.Module]
    activation: Callable[[], nn.Module]


PAIRS = {
    "LSQ, 4 bits per channel": Pair(
        lambda: ste.nn.IntegerQuantizer(4, narrow_range=True, axis=0),
        lambda: ste.nn.IntegerQuantizer(4),
    ),
    "LSQ+, 4 bits": Pair(
        lambda: ste.nn.IntegerQuantizer(4, narrow_range=True),
        lambda: ste.nn.IntegerQuantizer(4, signed=False, zero_point="learned"),
    ),
    "int8, absmax and EMA": Pair(
        lambda: ste.nn.IntegerQuantizer(8, narrow_range=True, scale="absmax", axis=0),
        lambda: ste.nn.IntegerQuantizer(8, scale="ema"),
    ),
    "int8, percentile, asymmetric": Pair(
        lambda: ste.nn.IntegerQuantizer(8, narrow_range=True, scale="absmax", axis=0),
        lambda: ste.nn.IntegerQuantizer(8, signed=False, scale="percentile", zero_point="observed"),
    ),
    "int4 groups": Pair(
        lambda: ste.nn.BlockQuantizer("int4", 4),
        lambda: ste.nn.BlockQuantizer("int8_token"),
    ),
    "e4m3": Pair(
        lambda: ste.nn.FloatQuantizer("e4m3fn", axis=0),
        lambda: ste.nn.FloatQuantizer("e4m3fn", scale="ema"),
    ),
    "mxfp4": Pair(lambda: ste.nn.BlockQuantizer("mxfp4"), lambda: ste.nn.BlockQuantizer("mxfp4")),
    "nvfp4": Pair(lambda: ste.nn.BlockQuantizer("nvfp4"), lambda: ste.nn.BlockQuantizer("nvfp4")),
    "binary, clipped": Pair(
        lambda: ste.nn.BinaryQuantizer(scale="mean", axis=0),
        lambda: ste.nn.BinaryQuantizer(),
    ),
    "ternary, threshold": Pair(
        lambda: ste.nn.TernaryQuantizer(axis=0),
        lambda: ste.nn.TernaryQuantizer(0.5, surrogate="clipped"),
    ),
}

FEATURES = 12


class Model(nn.Module):
    """Two linear layers, with a batch-independent norm between them, and with informative signs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 16)
        self.norm = nn.LayerNorm(16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.tanh(self.norm(self.first(x))))
        return y


def quantized(pair: Pair, seed: int = 0) -> Any:
    """Without a type, because types do not know about parametrizations."""
    torch.manual_seed(seed)
    model = Model()
    ste.nn.quantize(model, pair.weight(), pair.activation(), verbose=False)
    return model


def x_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(seed))


def trained(name: str) -> Any:
    """A model after three steps, in evaluation mode."""
    model = quantized(PAIRS[name])
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for seed in range(3):
        optimizer.zero_grad()
        model(batch(seed=seed)).square().mean().backward()
        optimizer.step()
    return model.eval()
